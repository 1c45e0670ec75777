"""What is measured, most important first."""

import dataclasses
import itertools

from .layout import Layout

SIZES_PX = (1024, 2048, 4096, 8192)
IMAGE_STEPS = 20


@dataclasses.dataclass(frozen=True)
class StepRepeats:
    """Of one size: what an hour on a machine is worth."""

    warm_up: int
    measured: int
    image_steps: int = 0  # 0: an image's time is that of its steps.
    beside_serial: bool = True  # In the same process, for a ratio and for PSNR.
    synchronous_too: bool = True  # Of stale methods.

    def flags(self) -> list:
        flags = [
            "--warm-up",
            str(self.warm_up),
            "--repeats",
            str(self.measured),
            "--image-steps",
            str(self.image_steps),
        ]
        flags += [] if self.beside_serial else ["--without-serial"]
        return flags + ([] if self.synchronous_too else ["--stale-only"])


def repeats_at(size_px: int) -> StepRepeats:
    if size_px <= 1024:
        return StepRepeats(5, 20, IMAGE_STEPS)
    if size_px <= 2048:
        return StepRepeats(3, 10, IMAGE_STEPS)
    if size_px <= 4096:
        return StepRepeats(2, 5)
    return StepRepeats(1, 2, beside_serial=False, synchronous_too=False)


@dataclasses.dataclass(frozen=True)
class Case:
    """One file of results."""

    kind: str  # "layout", or the part's name.
    rank: tuple  # Least first.
    gpus: int = 1
    size_px: int = 0
    layout: str = ""
    p2p: bool = True
    command: tuple = ()  # Of parts; {json} and {python} are filled in.

    @property
    def slug(self) -> str:
        parts = [self.kind]
        if self.kind == "layout":
            parts = [f"{self.size_px}px", self.layout.replace("=", "").replace(",", "-")]
        elif self.gpus > 1:
            parts.append(f"{self.gpus}gpus")
        return "-".join(parts + ([] if self.p2p else ["nop2p"]))

    @property
    def group(self) -> tuple:
        """Cases that one process may measure."""
        return (self.kind, *self.rank[:2], self.p2p) if self.kind == "layout" else (self.slug,)


def alone(n: int) -> list:
    """Layouts of n ranks by one method, and PipeFusion with n, 2n and 4n patches."""
    stale = [Layout(pipefusion=n, patches=many * n) for many in (2, 1, 4)] + [Layout(distrifusion=n)]
    return [Layout(ulysses=n), Layout(ring=n), Layout(tensor=n), *stale]


def products(n: int) -> list:
    """Of two of the methods; the first of each pair has two ranks, or as many as are left."""
    if n < 4:
        return []
    half = n // 2
    layouts = [Layout(ulysses=half, ring=2), Layout(ulysses=half, tensor=2), Layout(ring=half, tensor=2)]
    layouts.append(Layout(pipefusion=half, patches=n, ulysses=2))
    if half > 2:
        layouts.append(Layout(ulysses=2, ring=half))
    return layouts


def guided(n: int) -> list:
    """Guidance times everything else."""
    if n == 2:
        return [Layout(guidance=2)]
    return [dataclasses.replace(layout, guidance=2) for layout in alone(n // 2) + products(n // 2)]


def layouts_of(n: int, size_px: int) -> list:
    if n == 1:
        return [Layout()]
    if size_px > 4096:
        half = n // 2
        few = [Layout(ulysses=n), Layout(pipefusion=n, patches=2 * n), Layout(ring=n), Layout(tensor=n)]
        return [Layout(ulysses=half, guidance=2), *few, Layout(distrifusion=n)]
    layouts = guided(n) + alone(n) + products(n)
    if repeats_at(size_px).image_steps:  # Steps are the same after more that are synchronous; images are not.
        layouts += [dataclasses.replace(layout, warmup_steps=2) for layout in alone(n) if layout.is_stale]
    return layouts


def slow_link_layouts(n: int) -> list:
    """What a slow link tells apart."""
    few = [
        Layout(ulysses=n),
        Layout(ring=n),
        Layout(tensor=n),
        Layout(pipefusion=n, patches=2 * n),
        Layout(distrifusion=n),
    ]
    return few + (
        guided(n) if n == 2 else [Layout(pipefusion=n // 2, patches=n, guidance=2), Layout(ulysses=n // 2, guidance=2)]
    )


def layout_cases(gpus: int, sizes_px: tuple, p2p: tuple) -> list:
    """Most important: all GPUs at usual sizes, the slow link, 4096 px, fewer GPUs, and the largest size once."""
    cases = []

    def add(urgency: int, size_px: int, layouts: list, fast: bool = True) -> None:
        known = {case.slug for case in cases}
        made = [
            Case("layout", (urgency, size_px, each != Layout(), -each.ranks, i), each.ranks, size_px, str(each), fast)
            for i, each in enumerate(layouts)
        ]
        cases.extend(case for case in made if case.slug not in known)

    def together(size_px: int) -> list:
        return layouts_of(gpus, size_px) if gpus > 1 else []

    one, fewer = [Layout()], [count for count in (2, 4) if count < gpus and gpus % count == 0]
    for size_px in sizes_px:
        large, largest = size_px > 2048, size_px > 4096
        if True in p2p and largest:
            add(69, size_px, together(size_px))
            add(70, size_px, one)
        elif True in p2p:
            add(40 if large else 10, size_px, one + together(size_px))
            for count in fewer:
                add(60 if large else 50, size_px, layouts_of(count, size_px))
        if False in p2p and gpus > 1 and not largest:
            slow = slow_link_layouts(gpus) if True in p2p else one + together(size_px)
            add(45 if large else 30, size_px, slow, fast=False)
    return cases


def part_cases(gpus: int, device: str, p2p: tuple, model: str | None) -> list:
    """The programs that measure one GPU, the link, and images over gRPC."""
    bench = ("patchflow-bench", "--device", device, "--json", "{json}")
    cases = [
        Case(name, (20, i), command=(*bench, name, *flags))
        for i, (name, flags) in enumerate(
            {"gemm": (), "attention": (), "step": ("--budget-s", "12"), "text": ()}.items() if True in p2p else ()
        )
    ]
    if gpus > 1:
        for fast in p2p:
            link = (*bench, "link", "--ranks", str(gpus))
            cases.append(Case("link", (5 if fast else 29, 0), gpus, p2p=fast, command=link))
    if True not in p2p:
        return cases
    if device == "cuda":
        several = ("--ranks", str(gpus)) if gpus > 1 else ()
        cases.append(Case("vae", (35, 0), gpus, command=("bench-vae", "--json", "{json}", *several)))
    if model:
        cases += end_to_end_cases(gpus, device, model)
    return cases


def end_to_end_cases(gpus: int, device: str, model: str) -> list:
    command = ("{python}", "bench/end_to_end.py", model, "--device", device, "--json", "{json}")
    # On CPUs of a small checkpoint.
    command += ("--dtype", "bfloat16") if device == "cuda" else ("--size", "64x64", "--steps", "4", "--images", "2")
    chosen = {"serial": (1, "{}")}
    if gpus > 1:
        chosen["guidance"] = (gpus, f"{{guidance: 2, ulysses: {gpus // 2}}}")
        chosen |= {"ulysses": (gpus, f"{{ulysses: {gpus}}}"), "pipefusion": (gpus, f"{{pipefusion: {gpus}}}")}
    return [
        Case(f"image-{name}", (36, i), ranks, command=(*command, "--ranks", str(ranks), "--layout", layout))
        for i, (name, (ranks, layout)) in enumerate(chosen.items())
    ]


def peer_cases(gpus: int, sizes_px: tuple) -> list:
    """Stock diffusers on one GPU, and xDiT by what it has for this model."""
    sizes = ",".join(str(size) for size in sizes_px if size <= 2048)
    if not sizes:
        return []
    diffusers = ("{python}", "bench/peers/diffusers_step.py", "--sizes", sizes, "--json", "{json}")
    commands = {"diffusers": (1, diffusers), "diffusers-compiled": (1, (*diffusers, "--compile"))}
    for layout in (Layout(), *layouts_of(gpus, 2048)) if gpus > 1 else ():
        if layout.ring == layout.tensor == layout.distrifusion == layout.warmup_steps == 1:
            torchrun = ("{python}", "-m", "torch.distributed.run", "--nproc-per-node", str(layout.ranks))
            flags = ("bench/peers/xdit_step.py", "--layout", str(layout), "--sizes", sizes, "--json", "{json}")
            slug = str(layout).replace("=", "").replace(",", "-")
            commands[f"xdit-{slug}"] = (layout.ranks, (*torchrun, *flags))
    return [
        Case(f"peer-{name}", (25, i), ranks, command=command)
        for i, (name, (ranks, command)) in enumerate(commands.items())
    ]


def plan(gpus: int, device: str, sizes_px: tuple, p2p: tuple, model: str | None = None, peers: bool = False) -> list:
    """Cases in the order in which they are worth measuring; p2p lists whether GPUs reach each other's memory."""
    cases = layout_cases(gpus, sizes_px, p2p) + part_cases(gpus, device, p2p, model)
    cases += peer_cases(gpus, sizes_px) if peers else []
    return sorted(cases, key=lambda case: case.rank)


def groups(cases: list) -> list:
    """Lists of cases that follow each other and that one process may measure."""
    return [list(group) for _, group in itertools.groupby(cases, key=lambda case: case.group)]
