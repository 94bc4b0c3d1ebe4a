from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from limnet.data import DATA_SETS, Case
from limnet.data.data_set import DataSet, hash_split


def case(name):
    return Case(name, None, Path(f"{name}.nii.gz"), {"kidney": 1}, "KiTS19", False)


FIVE = tuple(case(f"case_0000{number}") for number in range(5))


def data_set(found=None, tested=None):
    def write_twin(root, *, cases, seed):
        return tuple(case(f"{root.name}-{seed}-{number}") for number in range(cases))

    return DataSet("KiTS19", lambda root: found, lambda root: FIVE, write_twin, tested)


def test_without_the_data_a_twin_is_written_and_the_report_says_so(tmp_path):
    chosen = data_set().choose(None, tmp_path / "twin", seed=4)
    assert [each.name for each in chosen.cases] == ["twin-4-0", "twin-4-1"]
    assert chosen.synthetic
    assert chosen.ran_on == "the synthetic twin of KiTS19 (2 cases), NOT on KiTS19"
    assert len(data_set().choose(None, tmp_path / "twin", cases=1).cases) == 1


def test_of_real_data_the_papers_number_of_cases_is_held_for_tests(tmp_path):
    chosen = data_set(tmp_path, tested=3).choose(tmp_path, tmp_path / "twin")
    assert chosen.cases == hash_split(FIVE, 3) and not chosen.synthetic
    assert chosen.ran_on == "KiTS19, 3 of its 5 cases"
    assert (
        data_set(tmp_path, tested=3).choose(tmp_path, tmp_path, cases=1).cases
        == (hash_split(FIVE, 3)[:1])
    )
    assert data_set(tmp_path).choose(tmp_path, tmp_path).cases == FIVE


def test_which_cases_are_held_depends_on_their_names_alone():
    names = sorted((each.name for each in FIVE), key=lambda name: sha256(name.encode()).hexdigest())
    assert [each.name for each in hash_split(FIVE, 2)] == names[:2]
    assert hash_split(FIVE[::-1], 2) == hash_split(FIVE, 2)


def test_a_split_names_every_case_once_and_says_whose_choice_it_is():
    split = data_set(tested=2).split(FIVE)
    assert split.test == tuple(each.name for each in hash_split(FIVE, 2))
    assert sorted(split.training + split.test) == [each.name for each in FIVE]
    assert split.rule.startswith("ours: the first 2 by the SHA-256")


def test_where_the_publishers_split_a_set_their_split_counts():
    files = (Path("imagesTr/a.nii.gz"), Path("imagesVa/b.nii.gz"))
    cases = [Case(file.name[0], file, Path("l.nii.gz"), {}, "AMOS", False) for file in files]
    split = data_set().split(cases)
    assert (split.training, split.test) == (("a",), ("b",))
    assert "publishers" in split.rule


def test_without_a_number_of_test_cases_all_of_them_test():
    split = data_set().split(FIVE)
    assert split.training == () and split.test == tuple(each.name for each in FIVE)
    assert split.rule.startswith("all test")


def test_every_data_set_has_a_twin_where_there_is_no_data_folder():
    for known in DATA_SETS.values():
        assert known.find(None) is None


def test_the_papers_test_sets_have_its_sizes():
    tested = {key: known.tested for key, known in DATA_SETS.items()}
    assert tested["kits19"] == 42 and tested["msd_colon"] == 26 and tested["btcv"] is None


def test_a_target_is_all_that_its_name_stands_for(tmp_path):
    labels = np.array([[[0, 1, 2, 3]]])
    kits = Case("a", None, tmp_path, {"kidney": (1, 2), "tumour": 2}, "KiTS19", False)
    assert kits.target(labels, "kidney").tolist() == [[[False, True, True, False]]]
    assert kits.target(labels, "tumour").tolist() == [[[False, False, True, False]]]
    with pytest.raises(ValueError, match="one of kidney, tumour; got 'liver'"):
        kits.target(labels, "liver")
