from pathlib import Path

from recorded import copy, failed, perturbed, solved  # noqa: F401 (fixtures for all)


def pytest_addoption(parser):
    here = Path(__file__).parent / "golden"
    parser.addoption("--golden", type=Path, default=here, help="folder of golden cases (see tests/golden)")
