"""One thread per test process: the suite runs several processes side by side, and rounding stays the same everywhere."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also for the scripts that tests start
