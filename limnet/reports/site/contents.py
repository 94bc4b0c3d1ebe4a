"""What of the paper the site shows, and the commands that make it."""

from typing import NamedTuple


class Item(NamedTuple):
    """A table, a figure or a claim of the paper, or a notebook beside them."""

    name: str
    title: str
    notebook: str  # its number; "" where there is nothing to run
    result: str  # of a table: its json without the ending; of a figure: how its file begins
    command: str


TABLES = (
    Item("Table I", "KiTS19 and MSD", "51", "table_1", "make reproduce-table-1"),
    Item("Table II", "with and without fusion", "52", "table_2", "make reproduce-table-2"),
    Item("Table III", "the data sets", "53", "table_3", "make reproduce-table-3"),
    Item("Table IV", "BTCV, unseen organs", "54", "table_4", "make reproduce-table-4"),
    Item("Table V", "pancreas tumours, unseen", "55", "table_5", "make reproduce-table-5"),
    Item("Table VI", "EndoVis18, surgical scenes", "56", "table_6", "make reproduce-table-6"),
)
FIGURES = (
    Item("Figure 1", "the networks", "", "", ""),
    Item("Figure 2", "the fusion module", "", "", ""),
    Item("Figure 3", "DSC over the rounds", "52", "figure_3", "make reproduce-table-2"),
    Item("Figure 4", "prompt masks", "58", "figure_4", "make reproduce-figure-4"),
    Item("Figure 5", "masks on BTCV", "54", "figure_5", "make reproduce-table-4"),
    Item("Figure 6", "masks on EndoVis18", "56", "figure_6", "make reproduce-table-6"),
)
NOTEBOOKS = (
    Item("10", "The data sets: what is here, how to get the rest", "10", "", "make data"),
    Item("57", "Runtime and memory", "57", "", "make reproduce-runtime"),
    Item("58", "Figure 4: prompt masks", "58", "", "make reproduce-figure-4"),
    Item("59", "Real collections", "59", "", "make reproduce-real"),
    Item("60", "The paper's claims", "60", "", "make claims"),
    Item("61", "What the paper leaves open", "61", "", "make protocols"),
)

MEM3D = "taken over by the paper from Mem3D's, reference [12]"
SLICES = "N clicks or a multiple of it: clicks on every one of N slices"
NOTES = {  # what the paper's tables say of others' rows
    "table_1": dict.fromkeys(
        ("nnU-Net (6 points)", "DeepIGeoS (6 points)", "Mem3d (6 points)"), MEM3D
    ),
    "table_4": dict.fromkeys(("SAM-B (N points)", "SAM-B (6 N points)"), SLICES),
    "table_5": {"SAM-B (10 N points)": SLICES},
    "table_6": {"SAM-B (N points)": SLICES},
}

# tables whose gains the paper's text gives in relative percent (III-C, III-D), and over which row
GAINS = {"table_2": "Ours w/o MRF", "table_5": "3DSAM-adapter (10 points)"}
