"""The most memory that this process has held."""

import re
import resource
import sys
from pathlib import Path


def peak_memory() -> int:
    """The most bytes that this process has held in memory.

    On Linux `getrusage` will not do: its peak may be that of the process which started this one
    (getrusage(2): usage is preserved across an execve).
    """
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text() if status.exists() else "")
    if found:
        return 1024 * int(found[1])
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used  # macOS counts bytes
