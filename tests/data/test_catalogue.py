import pytest
import yaml

from limnet.data import DATA_SETS, IMAGE_SETS
from limnet.data import catalogue as module
from limnet.data.catalogue import catalogue
from limnet.data.counting import TABLE_3
from limnet.data.fetching import check

ADAPTERS = {**DATA_SETS, **IMAGE_SETS}
LEAST = {"name": "A", "reference": "b", "licence": "c", "licence_source": "d", "home": ""}
LEAST |= {"gigabytes": None, "unlocks": [], "folder": "a", "steps": [], "expected": {}}
LEAST |= {"faults": []}


def written(monkeypatch, tmp_path, **changes):
    """The one entry of a catalogue that holds LEAST with these changes."""
    about = {name: value for name, value in {**LEAST, **changes}.items() if value != "left out"}
    (tmp_path / "catalogue.yaml").write_text(yaml.safe_dump({"a": about}))
    monkeypatch.setattr(module, "CATALOGUE_FILE", tmp_path / "catalogue.yaml")
    return catalogue.__wrapped__()["a"]


def test_there_is_an_entry_for_every_adapter_and_an_adapter_for_every_entry():
    assert set(catalogue()) == set(ADAPTERS)
    assert set(TABLE_3.values()) == set(catalogue()) - {"msd_pancreas"}


@pytest.mark.parametrize("entry", catalogue().values(), ids=lambda entry: entry.key)
def test_an_entry_says_how_to_get_the_set_and_what_it_may_be_used_for(entry):
    assert entry.steps and entry.licence and entry.licence_source and entry.unlocks
    assert bool(entry.home) != bool(entry.blocked)
    assert {"cases", "training", "test"} & set(entry.expected)
    assert not entry.blocked or not entry.downloads


def test_the_numbers_of_a_download_stand_for_one_file_each(monkeypatch, tmp_path):
    files = {"url": "https://a.org/{number:03d}.gz", "file": "case_{number}/a.gz"}
    files |= {"size": None, "digest": None, "numbers": [8, 10]}
    downloads = written(monkeypatch, tmp_path, downloads=[files]).downloads
    assert [file.url[-6:] for file in downloads] == ["008.gz", "009.gz", "010.gz"]
    assert downloads[2].file == "case_10/a.gz"


@pytest.mark.parametrize("changes", [{"licence": "left out"}, {"colour": "red"}])
def test_an_entry_that_lacks_a_field_or_has_one_too_many_is_refused(monkeypatch, tmp_path, changes):
    with pytest.raises(ValueError, match=f"a differs in .'{next(iter(changes))}'"):
        written(monkeypatch, tmp_path, **changes)


def test_the_known_counts_are_those_that_the_adapters_know():
    expected = {key: entry.expected for key, entry in catalogue().items()}
    assert expected["kits19"]["cases"] == 210 and expected["btcv"]["cases"] == 30
    assert expected["msd_lung"]["cases"] == 63
    assert expected["ishape"]["training"] + expected["ishape"]["test"] == 12_870


def test_what_is_fetched_is_named_once_and_safe_to_fetch():
    for entry in catalogue().values():
        files = [download.file for download in entry.downloads]
        assert len(set(files)) == len(files)
        for download in entry.downloads:
            check(download)
