"""One static site of all runs in the reports folder: tables beside the paper's, and notebooks."""

from limnet.reports.site.site import build_site

__all__ = ["build_site"]
