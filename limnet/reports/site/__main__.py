"""`python -m limnet.reports.site [folder]` builds the site and says where it is."""

import argparse
from pathlib import Path

from limnet.reports.site.site import build_site


def main() -> None:
    """Build the site of `reports/` (LIMNET_REPORTS names another folder)."""
    parser = argparse.ArgumentParser(prog="python -m limnet.reports.site", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="where to; reports/site by default")
    print(f"Site: {build_site(folder=parser.parse_args().folder) / 'index.html'}")


if __name__ == "__main__":
    main()
