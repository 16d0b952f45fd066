"""The process in which one learner learns: ``python -m racers JOB.json``, as `race.py` starts it."""

import sys

from racers.snapshots import run

if __name__ == "__main__":
    run(sys.argv[1])
