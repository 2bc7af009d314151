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


def test_a_run_is_resumed_on_what_it_began_with(tmp_path: Path) -> None:
    began = {"vae": "1", "unet": "2"}
    claim(tmp_path, "seed = 0\n", resume=False, inputs=began)
    claim(tmp_path, "seed = 0\n", resume=True, inputs=began)
    with pytest.raises(ConfigError, match="the unet that the run") as caught:
        claim(tmp_path, "seed = 0\n", resume=True, inputs=began | {"unet": "3"})
    assert caught.value.problems[0].key == "resume"
    claim(tmp_path, "seed = 0\n", resume=True, inputs=began)  # a refusal changes nothing


def test_the_beginnings_of_older_versions_have_no_digests(tmp_path: Path) -> None:
    claim(tmp_path, "seed = 0\n", resume=False)
    claim(tmp_path, "seed = 0\n", resume=True, inputs={"vae": "1"})
    with pytest.raises(ConfigError):
        claim(tmp_path, "seed = 0\n", resume=True, inputs={"vae": "2"})
