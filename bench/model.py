#!/usr/bin/env python3
"""What a step should take by a layout: floating-point operations over measured rates, bytes over measured links, and
who waits for whom. Nothing is fitted to the steps themselves.

    bench/model.py [--sizes 1024,2048,4096] [--roofs FOLDER] LAYOUT...
    bench/model.py [--roofs FOLDER] --beside REPORT.json

FOLDER is one of bench/run; without it rates are those kept of an H200. REPORT is of bench-parallel-steps: each of its
steps is set beside the prediction. The formulas:

* a block on `m` of `p` tokens, batch B, width d, n tokens of text: products 28 m d^2 B, attention 4 m p d B and
  4 m n d B floating-point operations, and four passes of m d B over memory for its two norms;
* tensor t: products and attention over t, three all-reduces of the activations;
* Ulysses u, ring r: tokens over u r; four all-to-all; r - 1 hops of keys and values, hidden behind attention;
* DistriFusion n: tokens over n; keys and values gathered, hidden when stale;
* PipeFusion N, M patches: a cycle is max(M c, sum of c_j + N h), c_j being a stage's time for a patch and h a hop; a
  synchronous step is all stages after each other;
* guidance 2: a batch of one.
"""

import argparse
import dataclasses
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from roofs import Roofs, measured, sent_bytes  # noqa: E402
from suite.layout import Layout  # noqa: E402

ITEM_BYTES = 2  # bfloat16
NOISE_BYTES = 32  # Of a token on its way to the other branch of guidance: 2 x 2 latent pixels of 4 channels, bfloat16.


@dataclasses.dataclass(frozen=True)
class Shape:
    """PixArt-XL/2."""

    blocks: int = 28
    width: int = 1152
    text_tokens: int = 300
    px_per_token: int = 16
    batch: int = 2

    def tokens(self, size_px: int) -> int:
        return (size_px // self.px_per_token) ** 2


class Model:
    """Milliseconds and bytes of one rank."""

    def __init__(self, roofs: Roofs, shape: Shape = Shape()):
        self.roofs, self.shape = roofs, shape

    def _batch(self, layout: Layout) -> int:
        return self.shape.batch // layout.guidance

    def _activation_bytes(self, tokens: float, layout: Layout) -> float:
        return tokens * self.shape.width * self._batch(layout) * ITEM_BYTES

    def _self_attention_ms(self, layout: Layout, mine: float, keys: float) -> float:
        """Of one block on a rank that holds `mine` tokens; with a ring each part waits for its keys and values."""
        d, batch, degree = self.shape.width, self._batch(layout), layout.ulysses
        queries, part = mine * degree, keys / layout.ring
        flop = 4 * queries * part * d * batch / degree / layout.tensor
        part_ms = flop / self.roofs.attention(min(queries, part)) / 1e9
        hop = 2 * self._activation_bytes(part / degree, layout) / layout.tensor
        return part_ms + (layout.ring - 1) * max(part_ms, self.roofs.links["hop"].ms(hop))

    def _block_compute_ms(self, layout: Layout, mine: float) -> float:
        """What is no self-attention."""
        d, batch, roofs = self.shape.width, self._batch(layout), self.roofs
        products = 28 * mine * d * d * batch / layout.tensor
        cross = 4 * mine * self.shape.text_tokens * d * batch / layout.tensor
        norms = 4 * self._activation_bytes(mine, layout)
        return (
            products / roofs.gemm(mine * batch) / 1e9
            + cross / roofs.cross_attention(mine) / 1e9
            + norms / roofs.memory_tb_s / 1e9
        )

    def _block_exchanges(self, layout: Layout, mine: float) -> list:
        """(operation, held bytes, ranks) that nothing hides."""
        held = self._activation_bytes(mine, layout)
        exchanges = []
        if layout.tensor > 1:
            exchanges += [("all-reduce", held, layout.tensor)] * 3
        if layout.ulysses > 1:
            exchanges += [("all-to-all", held / layout.tensor, layout.ulysses)] * 4
        return exchanges

    def _exchange_ms(self, operation: str, held: float, ranks: int) -> float:
        return self.roofs.links[operation].ms(sent_bytes(operation, held, ranks))

    def _blocks_ms(self, layout: Layout, tokens: float, keys: float, blocks: int, stale: bool) -> float:
        """So many blocks on `tokens` that the ranks of a stage share."""
        mine = tokens / layout.sequence
        ms = self._self_attention_ms(layout, mine, keys) + self._block_compute_ms(layout, mine)
        ms += sum(self._exchange_ms(*exchange) for exchange in self._block_exchanges(layout, mine))
        if layout.distrifusion > 1:
            held = 2 * self._activation_bytes(mine, layout) / layout.tensor
            gather_ms = self._exchange_ms("all-gather", held, layout.distrifusion)
            ms = max(ms, gather_ms) if stale else ms + gather_ms
        return blocks * ms

    def _hop_ms(self, layout: Layout, tokens: float) -> float:
        return self.roofs.links["hop"].ms(self._activation_bytes(tokens / layout.sequence, layout))

    def step_ms(self, layout: Layout, size_px: int, stale: bool) -> float:
        tokens = self.shape.tokens(size_px)
        if layout.pipefusion == 1 and layout.patches == 1:
            ms = self._blocks_ms(layout, tokens, tokens, self.shape.blocks, stale)
        elif stale:
            ms = self._cycle_ms(layout, tokens)
        else:
            ms = self._blocks_ms(layout, tokens, tokens, self.shape.blocks, stale)
            ms += layout.pipefusion * self._hop_ms(layout, tokens)
        return ms + self._guidance_ms(layout, tokens)

    def _guidance_ms(self, layout: Layout, tokens: float) -> float:
        if layout.guidance == 1:
            return 0.0
        return self._exchange_ms("all-gather", tokens / layout.sequence * NOISE_BYTES, 2)

    def _stages_ms(self, layout: Layout, tokens: float) -> list:
        """Each stage's time for a patch."""
        part = tokens / layout.patches
        return [self._blocks_ms(layout, part, tokens, count, True) for count in self._stage_blocks(layout)]

    def _stage_blocks(self, layout: Layout) -> list:
        most, left = divmod(self.shape.blocks, layout.pipefusion)
        return [most + (stage < left) for stage in range(layout.pipefusion)]

    def _cycle_ms(self, layout: Layout, tokens: float) -> float:
        stages = self._stages_ms(layout, tokens)
        hops = layout.pipefusion * self._hop_ms(layout, tokens / layout.patches) if layout.pipefusion > 1 else 0
        return max(layout.patches * max(stages), sum(stages) + hops)

    def image_ms(self, layout: Layout, size_px: int, steps: int) -> float:
        """Warm-up steps, stale steps, and a pipeline that runs empty."""
        warm_up = min(layout.warmup_steps, steps) if layout.is_stale else steps
        ms = warm_up * self.step_ms(layout, size_px, False)
        if warm_up == steps:
            return ms
        ms += (steps - warm_up) * self.step_ms(layout, size_px, True)
        if layout.pipefusion > 1:
            tokens = self.shape.tokens(size_px)
            stages, hop = self._stages_ms(layout, tokens), self._hop_ms(layout, tokens / layout.patches)
            full = layout.patches * max(stages) >= sum(stages) + layout.pipefusion * hop
            spare = sum(stages) - max(stages) + (layout.pipefusion - 1) * hop
            ms += spare if full else (layout.patches - 1) * max(stages)
        return ms

    def sent_mb(self, layout: Layout, size_px: int) -> float:
        """Of a step, by the rank that sends most."""
        tokens = self.shape.tokens(size_px)
        mine = tokens / layout.sequence
        per_block = sum(sent_bytes(*exchange) for exchange in self._block_exchanges(layout, mine))
        keys_values = 2 * self._activation_bytes(mine, layout) / layout.tensor
        per_block += (layout.distrifusion - 1) * keys_values + (layout.ring - 1) * keys_values
        # Two of the three sums of the tensor axis are of text and MLP.
        behind_text = 2 * sent_bytes("all-reduce", self._activation_bytes(mine, layout), layout.tensor)
        before_text = per_block - (behind_text if layout.tensor > 1 else 0)
        stages = [count * per_block for count in self._stage_blocks(layout)]
        stages[0] -= before_text * (1 - 1 / self._batch(layout))  # Until then the branches of an image are one.
        noise = mine * NOISE_BYTES
        if layout.pipefusion > 1:
            hop = self._activation_bytes(mine, layout)
            stages = [sent + hop for sent in stages[:-1]] + [stages[-1] + noise]
        if layout.guidance > 1:
            stages[-1] += noise
        return max(stages) / 1e6


def roofs_of_folder(folder: pathlib.Path | None, p2p: bool = True) -> Roofs:
    """From the files of bench/run; the link's is that with P2P, or without."""
    reports = {}
    for path in sorted(folder.glob("*.json")) if folder else []:
        record = json.loads(path.read_text())
        report = record.get("report") if isinstance(record, dict) else None
        if report and record["kind"] in ("gemm", "attention", "link") and report["machine"]["device"] != "cpu":
            if record["kind"] != "link" or record["p2p"] == p2p:
                reports[record["kind"]] = report
    return measured(reports, p2p)


def print_predictions(model: Model, sizes_px: list, layouts: list) -> None:
    print("| px | layout | synchronous ms | stale ms | 20 steps ms | MB sent a step |\n|---|---|---|---|---|---|")
    for size_px in sizes_px:
        for layout in layouts:
            stale = f"{model.step_ms(layout, size_px, True):.2f}" if layout.is_stale else "-"
            print(
                f"| {size_px} | {layout} | {model.step_ms(layout, size_px, False):.2f} | {stale} "
                f"| {model.image_ms(layout, size_px, 20):.1f} | {model.sent_mb(layout, size_px):.2f} |"
            )


def print_beside(model: Model, report: dict) -> None:
    """Of each layout and phase the last way of running it, which is by CUDA graphs."""
    print("| px | layout | phase | ms | predicted | ratio |\n|---|---|---|---|---|---|")
    for row in {(row["size_px"], row["layout"], row["phase"]): row for row in report["rows"]}.values():
        ms = model.step_ms(Layout.parse(row["layout"]), row["size_px"], row["phase"] == "stale")
        print(
            f"| {row['size_px']} | {row['layout']} | {row['phase']} | {row['ms']:.2f} | {ms:.2f} "
            f"| {row['ms'] / ms:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1024,2048,4096")
    parser.add_argument("--roofs", type=pathlib.Path)
    parser.add_argument("--no-p2p", action="store_true", help="Without a direct link between GPUs")
    parser.add_argument("--beside", type=pathlib.Path, metavar="REPORT.json")
    parser.add_argument("layouts", nargs="*", metavar="LAYOUT")
    arguments = parser.parse_args()
    model = Model(roofs_of_folder(arguments.roofs, not arguments.no_p2p))
    print(f"{model.roofs.source}\n")
    if arguments.beside:
        print_beside(model, json.loads(arguments.beside.read_text()))
    else:
        layouts = [Layout.parse(text) for text in arguments.layouts]
        print_predictions(model, [int(size) for size in arguments.sizes.split(",")], layouts)


if __name__ == "__main__":
    main()
