"""Trains the run named on the command line and dies by kill -9 at the step named, as power cuts do."""

import os
import signal
import sys

from cloche.runs import Run
from cloche.train import Recipe, Trainer

if __name__ == "__main__":
    run, step = Run.open(sys.argv[1]), int(sys.argv[2])
    for record in Trainer.start(Recipe.parse(run.recipe), run):
        if record["step"] >= step:
            os.kill(os.getpid(), signal.SIGKILL)
