import numpy as np

from limnet.files import peak_memory


def test_peak_memory_rises_with_what_a_process_holds():
    before = peak_memory()
    held = np.ones(200_000_000, dtype=np.uint8)
    assert peak_memory() >= before and peak_memory() >= held.nbytes
