"""What tests of engines share."""

from collections.abc import Iterator

import pytest
import torch

from tests.engines.forms import Forms


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Machines that run tests share their cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Forms:
    return Forms(tmp_path_factory.mktemp("forms"))
