"""How the input of a pretrained network differs from what it was trained with."""

from kd_ray.config.models import Input, TimmModel


def differences_from_training(config: TimmModel, input: Input) -> list[str]:
    """One phrase for each of size, mean and std in which `input` is not what timm says of the pretrained weights.

    None where no such weights are taken, or where a hub or a folder describes them, which is read when they are loaded.
    """
    if not config.pretrained or ":" in config.name:
        return []
    import timm  # 4 s, torchvision included: only where a timm model is looked at

    known = timm.get_pretrained_cfg(config.name)
    if known is None:
        return []
    found = []
    sizes = {tuple(known.input_size[1:]), tuple((known.test_input_size or known.input_size)[1:])}
    if tuple(input.size_px) not in sizes:
        told = " or ".join(f"{height}×{width}" for height, width in sorted(sizes))
        found.append(f"size_px is {input.size_px[0]}×{input.size_px[1]} ({told} in training)")
    for name in ("mean", "std"):
        given, trained = getattr(input, name), getattr(known, name)
        if any(abs(a - b) > 5e-4 for a, b in zip(given, trained, strict=True)):
            found.append(f"{name} is {list(given)} ({list(trained)} in training)")
    return found
