"""Downloads a model from the Hugging Face hub, for a script or a handler that does so itself."""

from huggingface_hub import snapshot_download

__all__ = ["download_model"]

_FILES = ["*.json", "*.pt", "*.bin", "*.txt", "*.model", "*.pth", "*.safetensors", "original/*"]


def download_model(
    model_id: str = "meta-llama/Meta-Llama-3.1-8B-Instruct",
    revision: str = "main",
    model_path: str = ".cache",
    use_auth_token: bool | str = True,
) -> str:
    """The folder with the model's files, below `model_path`.

    `use_auth_token` is a token, or whether to use the stored one.
    """
    return snapshot_download(
        repo_id=model_id,
        revision=revision,
        allow_patterns=_FILES,
        cache_dir=model_path,
        token=use_auth_token,
    )
