"""Files of others, fetched whole or not at all and checked, and their archives unpacked."""

from limnet.data.downloads.archives import unpack
from limnet.data.downloads.fetching import Download, DownloadError, GoneError, check, fetch

__all__ = ["Download", "DownloadError", "GoneError", "check", "fetch", "unpack"]
