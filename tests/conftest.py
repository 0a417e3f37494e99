"""What every test runs under, subprocesses and notebook kernels included: one thread, and no model hub."""

import os

# Models this small gain nothing from a second thread, and two torch processes that share two cores, each with a
# thread for every core, wait for one another: tests took 20 times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
