"""What can be asked of a run: names, types, defaults and meanings; nothing is checked here."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """What is asked of a run, unchecked. Names and meanings are those of the command line, in the order of its table.

    Attributes:
        eps: Largest local error; None where another target is given, 0.1 where none is.
        ratio: Share of neurons that every chain keeps, or None.
        params: Share of its parameters that the model keeps at most, or None.
        output_eps: Largest relative rms error at the model's outputs, or None.
        width: (chain name or glob, neurons to keep) pairs that win over the target; a mapping is accepted.
        widths: Path of an earlier report whose widths are taken over, or None.
        round_to: Widths are rounded up to a multiple of this, never above the old width.
        min_width: No chain gets narrower than this.
        include: Globs; where there are any, only chains that match one are cut.
        exclude: Globs; chains that match one are not cut.
        error: What `eps` bounds: the norm "rms", "p99" or "max" on samples, or "certified", what is proven.
        absolute: `eps` is in the layer's own numbers, not in units of its spread.
        method: Name of a method, or a method itself.
        refit: Outgoing weights are fitted by least squares.
        polish: All weights of the kept neurons are refined, incoming ones too; None for a short time, where
            inputs are real, no error is bounded and it is cheap.
        seed: Seed of every random draw.
        inputs: "auto", "ball", "synthetic" or the path of an .npz file.
        radius: (chain name or glob, radius of the ball of its inputs) pairs; the name "" stands for chains fed by an
            input of the model. A number or a mapping is accepted.
        input_range: (low, high): every number of the model's inputs lies between them; or None.
        input_shape: (input name, sizes) pairs; a mapping is accepted.
        constant_inputs: Initializers that are graph inputs too are taken for constants.
        samples: How many samples a chain is fitted to; None for 16,384, or four a neuron of the widest chain. A quarter
            as many again choose its width, and another quarter validate it.
        delta: Statistical statements hold with probability 1 - delta.
        certify: How much is spent on proving what the error can be at worst: "off", "fast" or "tight".
        provider: "auto", "cuda" or "cpu".
        memory_limit: How much memory running whole models may take, in bytes; None for half of the machine's. Where
            they would take more (about four times their size), no outputs are compared.
        jobs: How many processes work on layers; 1 for none but this one.
        validate: The result is compared with the original before it is written.
        report: Where the JSON report is written, or None.
        overwrite: OUT may exist.
        external_data: Weights are written to a file of their own beside OUT, whatever their size.
        inline_functions: Calls of model-local functions are replaced by the functions' nodes.
        dry_run: Nothing but the report is written.
    """

    eps: float | None = None
    ratio: float | None = None
    params: float | None = None
    output_eps: float | None = None
    width: tuple[tuple[str, int], ...] = ()
    widths: str | None = None
    round_to: int = 1
    min_width: int = 1
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    error: str = "rms"
    absolute: bool = False
    method: object = "backward"
    refit: bool = True
    polish: bool | None = None
    seed: int = 0
    inputs: str = "auto"
    radius: tuple[tuple[str, float], ...] = ()
    input_range: tuple[float, float] | None = None
    input_shape: tuple[tuple[str, tuple[int, ...]], ...] = ()
    constant_inputs: bool = False
    samples: int | None = None
    delta: float = 0.001
    certify: str = "tight"
    provider: str = "auto"
    memory_limit: int | None = None
    jobs: int = 1
    validate: bool = True
    report: str | None = None
    overwrite: bool = False
    external_data: bool = False
    inline_functions: bool = False
    dry_run: bool = False
