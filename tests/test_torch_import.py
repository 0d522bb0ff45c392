"""Published checkpoints: what is read, what is refused, and what a wrong state dict is told."""

import collections
import importlib.util
import io
import json
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dvg_jax import torch_import
from dvg_jax.errors import UserError
from dvg_jax.torch_import import load_checkpoint, load_dvg, subtree, unet3d
from dvg_jax.torch_import import reader as torch_reader
from tests.paths import GOLDEN, GOLDEN_SMALL, needs_shared

DVG = GOLDEN / "DVG_Diffusion.pt"


class Global:
    """Pickles as a bare name, which need not exist here."""

    def __init__(self, name: str) -> None:
        self.name = name


class Storage(tuple):
    """A persistent id: (type, key, location, count)."""


class Call:
    """Pickles as ``name(*arguments)``, then the state."""

    def __init__(self, name: str, *arguments: Any, state: Any = None) -> None:
        self.parts = Global(name), arguments, state

    def __reduce__(self) -> tuple:
        return self.parts if self.parts[2] is not None else self.parts[:2]


class Pickler(pickle._Pickler):
    """Writes names and calls that this process does not know; the C pickler cannot be taught to."""

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, Storage):
            return None
        kind, *rest = value
        return ("storage", Global(f"torch.{kind}"), *rest)

    def save_global_name(self, value: Global) -> None:
        module, name = value.name.rsplit(".", 1)
        self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())

    def save_call(self, value: Call) -> None:
        function, arguments, *state = value.__reduce__()
        self.save(function)
        self.save(arguments)
        self.write(pickle.REDUCE)
        if state:
            self.save(state[0])
            self.write(pickle.BUILD)

    dispatch = pickle._Pickler.dispatch | {Global: save_global_name, Call: save_call}


def tensor(kind: str, key: str, shape: tuple, strides: tuple, offset: int = 0, count: int = 6) -> Call:
    storage = Storage((kind, key, "cuda:0", count))
    hooks = collections.OrderedDict()
    return Call("torch._utils._rebuild_tensor_v2", storage, offset, shape, strides, False, hooks)


def write(
    path: Path, content: Any, storages: dict[str, bytes] | None = None, big: bool = False, **options: Any
) -> Path:
    """A file as torch.save of PyTorch 1.12 writes it; with ``big`` the later byte-order member."""
    stream = io.BytesIO()
    Pickler(stream, 2).dump(content)
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("archive/data.pkl", stream.getvalue())
        for key, raw in (storages or {}).items():
            file.writestr(f"archive/data/{key}", raw)
        file.writestr("archive/version", "3\n")
        if big:
            file.writestr("archive/byteorder", "big")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        load_checkpoint(path)
    assert str(path) in str(error.value)
    return str(error.value)


@needs_shared
def test_published_checkpoint_holds_what_its_list_says() -> None:
    content = load_checkpoint(DVG)
    listed = json.loads((GOLDEN / "DVG_Diffusion.keys.json").read_text())
    assert content["step"] == 123456
    for which in ("model", "ema"):
        found = {k: [list(a.shape), f"torch.{a.dtype}"] for k, a in content[which].items()}
        assert found == listed
    same = [np.array_equal(content["model"][k], content["ema"][k]) for k in listed if k.startswith("fine_model.")]
    # The rotary buffers are no parameters: only those were left alone.
    assert sum(same) == sum(k.startswith("fine_model.") and k.endswith("freqs") for k in listed)


@needs_shared
def test_published_parts_become_networks() -> None:
    ema, model = load_dvg(DVG), load_dvg(DVG, which="model")
    assert tuple(ema) == torch_import.DVG_PARTS
    coarse, variables = unet3d(ema["fit_model"], heads=2)
    assert (coarse.dim, coarse.dim_mults, coarse.heads, coarse.head_dim) == (8, (1, 2), 2, 32)
    fine, _ = unet3d({f"module.{k}": a for k, a in ema["fine_model"].items()})
    assert fine.dim_mults == (1, 3)
    trained = unet3d(model["fit_model"])[1]
    kernels = [v["params"]["init_conv"]["kernel"] for v in (variables, trained)]
    np.testing.assert_array_equal(kernels[1], np.transpose(model["fit_model"]["init_conv.weight"], (2, 3, 4, 1, 0)))
    assert not np.array_equal(*kernels)
    lightning = load_checkpoint(GOLDEN / "VPGE_45_VQGAN.ckpt")
    assert lightning["hyper_parameters"]["cfg"]["model"]["num_groups"] == 4
    for key, array in lightning["state_dict"].items():
        np.testing.assert_array_equal(array, model["vqgan_bp025"][key])


@needs_shared
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_equals_what_pytorch_reads() -> None:
    import torch

    theirs = torch.load(DVG, map_location="cpu", weights_only=True)["ema"]
    ours = load_checkpoint(DVG)["ema"]
    assert list(ours) == list(theirs)
    for key, array in ours.items():
        np.testing.assert_array_equal(array, theirs[key].numpy())


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(name.removeprefix("torch."), dtype) for name, dtype in torch_reader.STORAGES.items()],
)
@pytest.mark.parametrize("big", [False, True])
def test_every_type_and_byte_order_is_read(tmp_path: Path, kind: str, dtype: np.dtype, big: bool) -> None:
    values = np.array([0, 1, 1, 0, 1, 1] if dtype == np.bool_ else range(6)).astype(dtype)
    bits = values.view(f"u{dtype.itemsize}")
    raw = bits.astype(bits.dtype.newbyteorder(">" if big else "<")).tobytes()
    content = {
        "plain": tensor(kind, "0", (2, 3), (3, 1)),
        "transposed": tensor(kind, "0", (3, 2), (1, 3)),
        "tail": tensor(kind, "0", (), (), offset=5),
        "parameter": Call("torch._utils._rebuild_parameter", tensor(kind, "0", (2,), (1,)), True, {}),
        "empty": tensor(kind, "1", (0, 4), (4, 1), count=0),
    }
    read = load_checkpoint(write(tmp_path / "a.pt", content, {"0": raw, "1": b""}, big))
    assert all(array.dtype == dtype for array in read.values())
    np.testing.assert_array_equal(read["plain"], values.reshape(2, 3))
    np.testing.assert_array_equal(read["transposed"], values.reshape(2, 3).T)
    np.testing.assert_array_equal(read["tail"], values[5])
    np.testing.assert_array_equal(read["parameter"], values[:2])
    assert read["empty"].shape == (0, 4)


def test_storage_is_shared_not_copied(tmp_path: Path) -> None:
    content = [tensor("FloatStorage", "0", (6,), (1,)), tensor("FloatStorage", "0", (2,), (3,))]
    a, b = load_checkpoint(write(tmp_path / "a.pt", content, {"0": np.arange(6, dtype="<f4").tobytes()}))
    assert np.shares_memory(a, b)
    assert not a.flags.writeable
    np.testing.assert_array_equal(b, [0, 3])


def test_settings_become_plain_and_foreign_objects_inert(tmp_path: Path) -> None:
    leaf = Call("omegaconf.nodes.AnyNode", state={"_val": 4, "_parent": None})
    names = Call("omegaconf.listconfig.ListConfig", state={"_content": [leaf]})
    config = Call("omegaconf.dictconfig.DictConfig", state={"_content": {"groups": names}})
    callback = Call("pytorch_lightning.callbacks.ModelCheckpoint", "x")
    content = {
        "cfg": config,
        "callback": callback,
        "size": Call("torch.Size", (2, 3)),
        "any": Global("typing.Any"),
    }
    read = load_checkpoint(write(tmp_path / "a.ckpt", content))
    assert read["cfg"] == {"groups": [4]}
    assert read["size"] == (2, 3)
    assert repr(read["callback"]) == "<pytorch_lightning.callbacks.ModelCheckpoint, not loaded>"


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "posix.system",
        "builtins.eval",
        "builtins.getattr",
        "numpy.load",
        "torch.load",
        "omegaconf_.x",
    ],
)
def test_foreign_call_is_refused_and_not_made(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "evil.pt", {"model": {}, "step": Call(name, f"touch {tmp_path / 'ran'}")})
    assert f"asks to call {name}" in refusal(path)
    assert not (tmp_path / "ran").exists()


def test_malicious_pickle_of_the_usual_kind_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    data = pickle.dumps({"model": Evil()}, protocol=4)
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as file:
        file.writestr("archive/data.pkl", data)
    assert f"{os.system.__module__}.system" in refusal(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()
    pickle.loads(data)
    assert (tmp_path / "ran").exists(), "the pickle is harmless, so refusing it proves nothing"


def test_state_cannot_be_planted_on_our_classes(tmp_path: Path) -> None:
    for name in (
        "omegaconf.X",
        "collections.OrderedDict",
        "builtins.dict",
        "torch._utils._rebuild_tensor_v2",
    ):
        stream = io.BytesIO()
        pickler = Pickler(stream, 2)
        pickler.write(pickle.PROTO + b"\x02")
        pickler.save(Global(name))
        pickler.save({"planted": 1})
        pickler.write(pickle.BUILD + pickle.STOP)
        path = tmp_path / "a.pt"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("archive/data.pkl", stream.getvalue())
        assert "damaged" in refusal(path)
    assert not hasattr(torch_reader.Placeholder, "planted")


def test_damage_is_told(tmp_path: Path) -> None:
    raw = np.arange(6, dtype="<f4").tobytes()
    content = {"a": tensor("FloatStorage", "0", (6,), (1,))}
    whole = write(tmp_path / "whole.pt", content, {"0": raw}).read_bytes()
    path = tmp_path / "a.pt"
    for cut in (10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert "damaged or cut short" in refusal(path)
    start = whole.index(raw)
    path.write_bytes(whole[: start + 5] + b"\xff" + whole[start + 6 :])
    assert "data/0 does not match its checksum" in refusal(path)
    assert "data/0 is missing" in refusal(write(path, content))
    assert "is compressed" in refusal(write(path, content, {"0": raw}, compression=zipfile.ZIP_DEFLATED))
    for outside in (
        tensor("FloatStorage", "0", (7,), (1,)),
        tensor("FloatStorage", "0", (2,), (6,)),
        tensor("FloatStorage", "0", (2,), (1,), offset=-1),
        tensor("FloatStorage", "0", (2,), (-1,)),
        tensor("FloatStorage", "0", (2, 2), (1,)),
        tensor("FloatStorage", "0", (9,), (1,), count=9),
    ):
        assert "damaged" in refusal(write(path, outside, {"0": raw}))


def test_other_formats_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2))
    assert "before 1.6" in refusal(path)
    path.write_bytes(b"GIF89a")
    assert "not a PyTorch file" in refusal(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("word/document.xml", "")
    assert "0 members are named data.pkl" in refusal(path)
    assert "no such file" in refusal(tmp_path / "none.pt")


def state_dict() -> dict[str, np.ndarray]:
    with np.load(GOLDEN_SMALL / "unet3d_cubic.npz") as golden:
        return {key[3:]: golden[key] for key in golden.files if key.startswith("sd/")}


def test_wrong_state_dict_is_told_key_by_key() -> None:
    arrays = state_dict()
    arrays["extra.weight"] = np.zeros(3)
    del arrays["mid_block1.mlp.1.bias"], arrays["downs.0.2.fn.fn.to_out.bias"]
    arrays["ups.0.4.weight"] = arrays["ups.0.4.weight"][..., :3]
    with pytest.raises(UserError) as error:
        unet3d(arrays)
    unknown, missing, reshaped = re.fullmatch(
        r"state dict is not that of a 3D U-Net; unknown: (.*); missing: (.*); of another shape: (.*)",
        str(error.value),
    ).groups()
    assert unknown == "extra.weight"
    assert set(missing.split(", ")) == {"mid_block1.mlp.1.bias", "downs.0.2.fn.fn.to_out.bias"}
    assert reshaped == "ups.0.4.weight (8, 8, 1, 4, 3) instead of (8, 8, 1, 4, 4)"


def test_every_published_key_is_used() -> None:
    used = {k for k in state_dict() if not k.endswith("rotary_emb.freqs")}
    for key in sorted(used)[::20]:
        with pytest.raises(UserError, match=f"missing: {re.escape(key)}"):
            unet3d({k: a for k, a in state_dict().items() if k != key})


def test_wrong_requests_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="heads is 8; allowed: 2"):
        unet3d(state_dict(), heads=8)
    with pytest.raises(UserError, match=r"nothing under 'fine'; allowed: .*init_conv"):
        subtree(state_dict(), "fine")
    with pytest.raises(UserError, match="which is 'best'; allowed: 'ema', 'model'"):
        load_dvg(tmp_path, which="best")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="holds step; allowed: a dict with 'ema'"):
        load_dvg(write(tmp_path / "a.pt", {"step": 1}))
