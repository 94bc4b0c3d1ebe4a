"""The cases of a run: of a twin, of published data sets, or of all collections."""

from pathlib import Path

from limnet.data import DATA_SETS, Case, Chosen, collection_cases


def choose(
    data: str, data_root: str | Path | None, twins: Path, *, cases: int = 0, seed: int = 0
) -> Chosen:
    """Cases, and the words that a report must say about them.

    Args:
        data: "twin", BTCV's; keys of DATA_SETS with a comma between, where each is read if it is at
            hand and its twin if not; or "collections", all that lie in the data folder.
        data_root: `LIMNET_DATA`; None where there is no data folder.
        twins: folder for twins, each in a folder of its own.
        cases: the first so many of each; 0: all, of a twin 2.
        seed: of the twins' patients.

    Raises:
        ValueError: there is no such data, or what `DataSet.choose` and `collection_cases` raise.
    """
    if data == "collections":
        return _of_collections(data_root, cases)
    keys = ["btcv"] if data == "twin" else data.split(",")
    if not set(keys) <= set(DATA_SETS):
        raise ValueError(
            f"data must be twin, collections or some of {', '.join(DATA_SETS)} with a comma"
            f" between, got {data!r}"
        )
    root = None if data == "twin" else data_root
    sets = [DATA_SETS[key].choose(root, twins / key, cases=cases, seed=seed) for key in keys]
    every, said, synthetic = zip(*sets, strict=True)
    return Chosen(tuple(case for each in every for case in each), "; ".join(said), any(synthetic))


def _of_collections(data_root: str | Path | None, cases: int) -> Chosen:
    if data_root is None:
        raise ValueError(
            "collections must lie in the folder that LIMNET_DATA names, but it is not set; set it"
            ' or take data "twin"'
        )
    by_name: dict[str, list[Case]] = {}
    found = [case for case in collection_cases(data_root) if case.image and case.anatomy]
    for case in found:
        by_name.setdefault(case.collection, []).append(case)
    chosen = tuple(case for each in by_name.values() for case in each[: cases or None])
    plural = "s" * (len(by_name) != 1)
    said = f"{len(chosen)} of {len(found)} real cases, of {len(by_name)} collection{plural}"
    return Chosen(chosen, said, False)
