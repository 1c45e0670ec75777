"""What every phase of the training works with."""

import contextlib

import torch

from .clock import log
from .networks import make_vae
from .render import Renderer


class Studio:
    """The device, the recipe, the pools of scenes, the renderer, and the networks' directory."""

    def __init__(self, recipe, directory, device, maker):
        self.recipe = recipe
        self.directory = directory
        self.device = torch.device(device)
        self.on_gpu = self.device.type == "cuda"
        self.renderer = Renderer(self.device)
        self._maker = maker
        self._pools = {}
        if self.on_gpu:
            torch.backends.cuda.matmul.allow_tf32 = True
            torch.backends.cudnn.allow_tf32 = True
            torch.backends.cudnn.benchmark = True
            torch._dynamo.config.recompile_limit = 64

    def pool(self, name):
        """A pool of `pool.orders_for`, on the device."""
        if name not in self._pools:
            self._pools[name] = self._maker.take(name).to(self.device)
            log(f"{name}: {self._pools[name].scenes} scenes")
        return self._pools[name]

    def autocast(self):
        """bf16 on a GPU, fp32 on a CPU."""
        if self.on_gpu:
            return torch.autocast("cuda", torch.bfloat16)
        return contextlib.nullcontext()

    def synchronize(self):
        if self.on_gpu:
            torch.cuda.synchronize()

    def compiled(self, function):
        """Compiled where that pays: on a GPU."""
        return torch.compile(function, dynamic=False) if self.on_gpu else function

    def random_rows(self, pool, count):
        return torch.randint(pool.scenes, (count,), device=self.device)

    def batches(self, pool, size):
        return torch.arange(pool.scenes, device=self.device).split(size)

    def trained_vae(self):
        """The VAE of the directory, frozen, channels last."""
        vae = make_vae(self.recipe.networks)
        notes = self.directory.load("vae", vae)
        vae.register_to_config(scaling_factor=float(notes["scaling_factor"]))
        vae.requires_grad_(False)
        return vae.to(self.device, memory_format=torch.channels_last)
