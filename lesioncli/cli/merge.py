"""The command `merge`."""

import dataclasses

from lesioncli.cli.arguments import MASKS, JsonOption, MasksPlaceArgument
from lesioncli.cli.console import print_json, print_line, progress_bars


def merge(masks: MasksPlaceArgument = str(MASKS), json_output: JsonOption = False) -> None:
    """Join the rows of shards of `segment --shard`.

    Afterwards, the folder is what one process would have left. Shards that are missing, not finished, or of different
    engines, options or versions are errors; nothing is changed then.
    """
    from lesioncli import api

    with progress_bars() as progress:
        merged = api.merge(masks, progress=progress)
    if json_output:
        print_json({"out": masks, **dataclasses.asdict(merged)})
        return
    done = f"{merged.shards} shards merged" if merged.shards else "nothing to merge"
    print_line(
        f"{masks}: {done}; {merged.images} images: {merged.ok} ok, {merged.failed} failed, {merged.skipped} skipped"
    )
