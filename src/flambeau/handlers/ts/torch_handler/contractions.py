"""English contractions and what they stand for, for text clean-up."""

__all__ = ["CONTRACTION_MAP"]

_IRREGULAR = {
    "ain't": "is not",
    "can't": "cannot",
    "can't've": "cannot have",
    "'cause": "because",
    "he'll've": "he he will have",  # TorchServe's, and models were trained on its output
    "how'd'y": "how do you",
    "let's": "let us",
    "ma'am": "madam",
    "o'clock": "of the clock",
    "sha'n't": "shall not",
    "shan't": "shall not",
    "shan't've": "shall not have",
    "so's": "so as",
    "won't": "will not",
    "won't've": "will not have",
    "y'all": "you all",
    "y'all'd": "you all would",
    "y'all'd've": "you all would have",
    "y'all're": "you all are",
    "y'all've": "you all have",
}
_ENDINGS = {
    "n't": "not",
    "n't've": "not have",
    "'d": "would",
    "'d've": "would have",
    "'ll": "will",
    "'ll've": "will have",
    "'m": "am",
    "'re": "are",
    "'s": "is",
    "'ve": "have",
}
_WORDS_BY_ENDING = {
    "n't": "are could did does do had has have is may might must need ought should was were would",
    "n't've": "could had might must need ought should would",
    "'d": "he I i it she that there they we you",
    "'d've": "he I i it she that there they we you",
    "'ll": "he how I i it she they we what who you",
    "'ll've": "I i it she they we what who you",
    "'m": "I i",
    "'re": "they we what you",
    "'s": "he how it she that there what when where who why",
    "'ve": "could I i might must should so they to we what when where who why will would you",
}
_PAST = {"how'd": "how did", "where'd": "where did"}

CONTRACTION_MAP = {
    **{
        f"{word}{ending}": f"{word} {_ENDINGS[ending]}"
        for ending, words in _WORDS_BY_ENDING.items()
        for word in words.split()
    },
    **_PAST,
    **_IRREGULAR,
}
"""Contraction → its words."""
