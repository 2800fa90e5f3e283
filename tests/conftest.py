from pathlib import Path

import pytest
from recorded import copy, failed, perturbed, solved  # noqa: F401 (fixtures for all)


def pytest_addoption(parser):
    here = Path(__file__).parent / "golden"
    parser.addoption("--golden", type=Path, default=here, help="folder of golden cases (see tests/golden)")


@pytest.fixture(scope="session")
def taught_runs(tmp_path_factory):
    """(folder, record) of nano's run in which a scripted person drove from tick 10 to 50."""
    from test_teach import corrected

    root = tmp_path_factory.mktemp("taught") / "runs"
    return root, corrected(root)
