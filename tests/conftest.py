from pathlib import Path


def pytest_addoption(parser):
    here = Path(__file__).parent / "golden"
    parser.addoption("--golden", type=Path, default=here, help="folder of golden cases (see tests/golden)")
