"""What computing costs, learned from what it has cost: seconds from numbers of tokens.

One model for both sides of the process boundary: an engine derives from it how many tokens a
micro-batch should have, the scheduler when a worker will be free. Pure arithmetic, no clock.
"""

DECAY = 0.98
"""What an observation still counts after the next one: about the last fifty matter."""

_RIDGE = 1e-6
_OUTLIER = 8.0
"""A pass that took so many times longer than foreseen says something about the machine, not about
the model, and counts as this much."""


class CostModel:
    """Learns seconds = a + b·tokens + c·squares, where squares is the sum of squared text lengths.

    `a` is what any forward pass costs, `b` a token's linear layers, `c` its attention. None of them
    is ever negative.
    """

    def __init__(self) -> None:
        self._products = [[0.0] * 3 for _ in range(3)]
        self._targets = [0.0] * 3
        self._fit = (0.0, 0.0, 0.0)
        self.observations = 0

    @property
    def fixed(self) -> float:
        """Seconds of a pass over nothing."""
        return self._fit[0]

    @property
    def per_token(self) -> float:
        """Seconds that one more token costs, without its attention."""
        return self._fit[1]

    def observe(self, tokens: int, squares: int, seconds: float) -> None:
        """Learn from one forward pass."""
        if self.observations > 2 and (expected := self.predict(tokens, squares)) > 0:
            seconds = min(seconds, expected * _OUTLIER)
        self.observations += 1
        # Relative errors count: a long pass must not drown the short ones.
        weight = 1.0 / max(seconds, 1e-9)
        features = (weight, weight * tokens / _TOKENS, weight * squares / _SQUARES)
        for row, one in enumerate(features):
            self._targets[row] = DECAY * self._targets[row] + one * weight * seconds
            for column, other in enumerate(features):
                kept = DECAY * self._products[row][column]
                self._products[row][column] = kept + one * other
        self._fit = self._solve()

    def predict(self, tokens: int, squares: int) -> float:
        """Seconds of a forward pass; 0 before anything was learned."""
        a, b, c = self._fit
        return a + b * tokens + c * squares

    def budget(self, lowest: int, highest: int, share: float = 0.05) -> int:
        """Tokens from which on the fixed cost is at most `share` of a pass, within bounds."""
        a, b, _ = self._fit
        if b <= 0:
            return highest
        return int(min(max(a / (share * b), lowest), highest))

    def _solve(self) -> tuple[float, float, float]:
        """The least squares without negative parts: what would be negative is left out."""
        wanted = [0, 1, 2]
        while wanted:
            solution = _solve_linear(
                [
                    [
                        self._products[row][column]
                        + _RIDGE * (row == column) * self._products[row][row]
                        for column in wanted
                    ]
                    for row in wanted
                ],
                [self._targets[row] for row in wanted],
            )
            negative = [each for each, value in zip(wanted, solution, strict=True) if value < 0]
            if not negative:
                found = dict(zip(wanted, solution, strict=True))
                return (
                    found.get(0, 0.0),
                    found.get(1, 0.0) / _TOKENS,
                    found.get(2, 0.0) / _SQUARES,
                )
            wanted.remove(max(negative))
        return (0.0, 0.0, 0.0)


_TOKENS, _SQUARES = 128.0, 4096.0
"""Units that make the three features about equally large."""


def _solve_linear(matrix: list[list[float]], targets: list[float]) -> list[float]:
    """Gauss's elimination with pivots; a column that is all zero gives zero."""
    size = len(targets)
    rows = [[*row, target] for row, target in zip(matrix, targets, strict=True)]
    for step in range(size):
        pivot = max(range(step, size), key=lambda row: abs(rows[row][step]))
        rows[step], rows[pivot] = rows[pivot], rows[step]
        head = rows[step][step]
        if abs(head) < 1e-30:
            continue
        for row in range(step + 1, size):
            factor = rows[row][step] / head
            rows[row] = [
                one - factor * other for one, other in zip(rows[row], rows[step], strict=True)
            ]
    solution = [0.0] * size
    for row in range(size - 1, -1, -1):
        head = rows[row][row]
        rest = sum(rows[row][column] * solution[column] for column in range(row + 1, size))
        solution[row] = (rows[row][size] - rest) / head if abs(head) >= 1e-30 else 0.0
    return solution
