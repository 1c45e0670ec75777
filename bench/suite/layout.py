"""A layout as parallel/layout.h writes it."""

import dataclasses

# In the order in which ToString(Layout) writes them.
KEYS = ("pipefusion", "patches", "distrifusion", "warmup_steps", "ulysses", "ring", "tensor", "guidance")


@dataclasses.dataclass(frozen=True)
class Layout:
    pipefusion: int = 1
    patches: int = 1
    distrifusion: int = 1
    warmup_steps: int = 1
    ulysses: int = 1
    ring: int = 1
    tensor: int = 1
    guidance: int = 1

    @staticmethod
    def parse(text: str) -> "Layout":
        if text in ("", "serial"):
            return Layout()
        pairs = [part.split("=") for part in text.split(",")]
        unknown = [pair[0] for pair in pairs if len(pair) != 2 or pair[0] not in KEYS or not pair[1].isdigit()]
        if unknown:
            raise ValueError(f"layout: '{text}': there is no {', '.join(unknown)}; there are {', '.join(KEYS)}")
        layout = Layout(**{key: int(value) for key, value in pairs})
        if layout.pipefusion > 1 and "patches" not in text:
            return dataclasses.replace(layout, patches=2 * layout.pipefusion)
        return layout

    @property
    def sequence(self) -> int:
        return self.distrifusion * self.ulysses * self.ring

    @property
    def ranks(self) -> int:
        return self.pipefusion * self.sequence * self.tensor * self.guidance

    @property
    def is_stale(self) -> bool:
        return self.pipefusion > 1 or self.patches > 1 or self.distrifusion > 1

    def __str__(self) -> str:
        shown = {"pipefusion": self.pipefusion > 1 or self.patches > 1, "warmup_steps": self.is_stale}
        shown["patches"] = shown["pipefusion"]
        parts = [f"{key}={getattr(self, key)}" for key in KEYS if shown.get(key, getattr(self, key) > 1)]
        return ",".join(parts) or "serial"
