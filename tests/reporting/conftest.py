"""A working directory of its own."""
import pytest


@pytest.fixture
def place(tmp_path, monkeypatch):
    "An empty folder, and the working directory"
    monkeypatch.chdir(tmp_path)
    return tmp_path
