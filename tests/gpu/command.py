"""The command line in a process of its own, with torch in place of TensorRT.

    python command.py [--standin] [--trespass NTH] WORDS_OF_LESIONCLI ...

With --trespass, the NTH batch writes to an illegal address.
"""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from gpu.cards import Card, RealCard, standin_card
from gpu.torch_vendor import TorchVendor

from lesioncli.__main__ import main


def run() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--standin", action="store_true")
    parser.add_argument("--trespass", type=int)
    parser.add_argument("words", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with ExitStack() as undo:
        card: Card = undo.enter_context(standin_card()) if options.standin else RealCard()
        sys.modules["tensorrt"] = TorchVendor(card)
        if options.trespass:
            undo.enter_context(card.trespass(options.trespass))
        sys.argv = ["lesioncli", *options.words]
        main()


if __name__ == "__main__":
    run()
