"""A folder belongs to one run, and to nothing else."""

from pathlib import Path

import pytest

from loricate.basics.errors import ConfigError
from loricate.recipes._folder import claim


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ConfigError) as caught:
        claim(tmp_path, "seed = 0\n", resume=resume)
    assert caught.value.problems[0].key == "out"
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_an_empty_folder_is_claimed_and_resumed(tmp_path: Path) -> None:
    claim(tmp_path, "seed = 0\n", resume=False)
    claim(tmp_path, "seed = 0\n", resume=True)
    with pytest.raises(ConfigError):
        claim(tmp_path, "seed = 1\n", resume=True)
