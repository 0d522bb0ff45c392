"""The text of a GPU's compiler is read rightly, and no convolution of a training step is a giant.

The compiler is JAX's plugin for CUDA, which needs no GPU: pip install "jax[cuda12]", in an environment of its own. The
tests that need it are slow, and are skipped where it is missing.
"""

import gzip
import json

import jax
import pytest

from benchmarks import memory
from benchmarks.gpu_plan import __main__ as command
from benchmarks.gpu_plan import compiling, programs, tables, targets
from benchmarks.gpu_plan.hlo import Array, parse
from benchmarks.gpu_plan.kernels import endless_loops, kernels
from dvg_jax.config import PAPER_STAGES
from dvg_jax.errors import UserError

H100 = targets.TARGETS["h100"]

WIDEST = 7
"""The networks' own kernels have 7 taps an axis at most."""

SUMS = {"count": 3, "gb": 0.5}

needs_compiler = pytest.mark.skipif(
    not targets.has_compiler(),
    reason="the compiler for GPUs is missing; python -m venv gpu; gpu/bin/pip install -e '.[dev,cuda12]' brings it, "
    "and gpu/bin/python -m pytest -m slow tests/test_gpu_plan.py runs this, without a GPU",
)

TEXT = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[4,8]{1,0})->f32[4,8]{1,0}}

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%product (p0: bf16[16,32], p1: bf16[32,64]) -> bf16[16,64] {
  %p0 = bf16[16,32]{1,0} parameter(0)
  %p1 = bf16[32,64]{1,0} parameter(1)
  ROOT %dot = bf16[16,64]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%row (p0.1: f32[100,8], p1.1: s32[]) -> f32[1,8] {
  %p0.1 = f32[100,8]{1,0} parameter(0)
  %p1.1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %cut = f32[1,8]{1,0} dynamic-slice(%p0.1, %p1.1, %zero), dynamic_slice_sizes={1,8}
}

%write (p0.2: f32[100,8], p1.2: f32[1,8], p2.2: s32[]) -> f32[100,8] {
  %p0.2 = f32[100,8]{1,0} parameter(0)
  %p1.2 = f32[1,8]{1,0} parameter(1)
  %p2.2 = s32[] parameter(2)
  %zero.2 = s32[] constant(0)
  ROOT %put = f32[100,8]{1,0} dynamic-update-slice(%p0.2, %p1.2, %p2.2, %zero.2)
}

%turn (p0.3: f32[4,8]) -> bf16[8,4] {
  %p0.3 = f32[4,8]{1,0} parameter(0)
  %turned = f32[8,4]{1,0} transpose(%p0.3), dimensions={1,0}
  ROOT %small = bf16[8,4]{1,0} convert(%turned)
}

%body (state: (s32[], f32[100,8])) -> (s32[], f32[100,8]) {
  %state = (s32[], f32[100,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %all = f32[100,8]{1,0} get-tuple-element(%state), index=1
  %one = f32[1,8]{1,0} fusion(%all, %i), kind=kLoop, calls=%row, metadata={op_name="jit(step)/while/body/row_3/slice"}
  %new = f32[100,8]{1,0} fusion(%all, %one, %i), kind=kLoop, calls=%write, metadata={op_name="jit(step)/put"}
  ROOT %next = (s32[], f32[100,8]{1,0}) tuple(%i, %new)
}

%more (state.1: (s32[], f32[100,8])) -> pred[] {
  %state.1 = (s32[], f32[100,8]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (x: f32[4,8], v: bf16[2,16,8,8,8], w: bf16[32,16,3,3,3]) -> f32[4,8] {
  %x = f32[4,8]{1,0} parameter(0), metadata={op_name="state[\\'x\\']"}
  %v = bf16[2,16,8,8,8]{4,3,2,1,0} parameter(1)
  %w = bf16[32,16,3,3,3]{4,3,2,1,0} parameter(2)
  %l = bf16[16,32]{1,0} parameter(3)
  %r = bf16[32,64]{1,0} parameter(4)
  %forward = (bf16[2,32,8,8,8]{4,3,2,1,0}, u8[4096]{0}) custom-call(%v, %w), window={size=3x3x3 pad=1_1x1_1x1_1}, \
dim_labels=bf012_oi012->bf012, custom_call_target="__cudnn$convForward", metadata={op_name="jit(step)/net/conv_2/conv"}
  %y = bf16[2,32,8,8,8]{4,3,2,1,0} get-tuple-element(%forward), index=0
  %filter = (bf16[32,16,3,3,3]{4,3,2,1,0}, u8[0]{0}) custom-call(%v, %y), window={size=3x3x3 pad=1_1x1_1x1_1}, \
dim_labels=bf012_oi012->bf012, custom_call_target="__cudnn$convBackwardFilter", \
metadata={op_name="jit(step)/net/conv_3/conv"}
  %input = (bf16[2,16,8,8,8]{4,3,2,1,0}, u8[0]{0}) custom-call(%y, %w), window={size=3x3x3 pad=1_1x1_1x1_1}, \
dim_labels=bf012_oi012->bf012, custom_call_target="__cudnn$convBackwardInput"
  %image = f32[1,20,12,1]{3,2,1,0} parameter(5)
  %gradient = f32[18,9,1,1]{3,2,1,0} parameter(6)
  %giant = f32[1,3,4,1]{3,2,1,0} convolution(%image, %gradient), window={size=18x9}, dim_labels=b01f_01io->b01f
  %p = bf16[16,64]{1,0} fusion(%l, %r), kind=kCustom, calls=%product, metadata={op_name="jit(step)/net/dot"}
  %library = (bf16[16,64]{1,0}, s8[4194304]{0}) custom-call(%l, %r), custom_call_target="__cublas$gemm", \
backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}
  %t = bf16[8,4]{1,0} fusion(%x), kind=kInput, calls=%turn
  %exchanged = f32[4,8]{1,0} all-reduce-start(%x), replica_groups={{0,1}}, to_apply=%sum
  %done = f32[4,8]{1,0} all-reduce-done(%exchanged)
  %start = s32[] constant(0)
  %table = f32[100,8]{1,0} broadcast(%start), dimensions={}
  %begin = (s32[], f32[100,8]{1,0}) tuple(%start, %table)
  %loop = (s32[], f32[100,8]{1,0}) while(%begin), condition=%more, body=%body, \
backend_config={"known_trip_count":{"n":"100"}}
  %lost = (s32[], f32[100,8]{1,0}) while(%loop), condition=%more, body=%body
  ROOT %out = f32[4,8]{1,0} copy(%done)
}
"""
"""This HLO, made by hand, has one of each thing that is read."""


@pytest.fixture(scope="module")
def found():
    """Return the kernels of the text by name; a loop's are listed once for each loop."""
    return {f"{kernel.name}, {kernel.runs}": kernel for kernel in kernels(parse(TEXT))}


def test_a_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="no HLO module"):
        parse("what is this?")


def test_instructions_are_read_with_result_operands_and_name():
    main = parse(TEXT).computations["main"]
    assert main["forward"].result == (Array("bf16", (2, 32, 8, 8, 8)), Array("u8", (4096,)))
    assert main["forward"].operands == ("v", "w")
    assert main["forward"].op_name == "jit(step)/net/conv_2/conv"
    assert main["x"].op_name == "state['x']"
    assert main["out"].root


def test_operands_are_found_behind_their_shapes_and_without_percent_signs():
    text = "ENTRY main (a: f32[2]) -> f32[2] {\n  a = f32[2]{0} parameter(0)\n"
    text += "  ROOT b = f32[2]{0} add(f32[2]{0} a, f32[2]{0} %a)\n}"
    assert parse(text).computations["main"]["b"].operands == ("a", "a")


def test_what_launches_nothing_is_no_kernel(found):
    assert not {"x, 1", "y, 1", "done, 1", "begin, 1", "loop, 1"} & found.keys()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("forward, 1", "conv"), ("giant, 1", "conv"), ("p, 1", "gemm"), ("library, 1", "gemm"), ("t, 1", "transpose"),
        ("exchanged, 1", "all-reduce"), ("one, 100", "slice"), ("out, 1", "copy"),
    ],
)  # fmt: skip
def test_kernels_have_their_kind(found, name, kind):
    assert found[name].kind == kind


@pytest.mark.parametrize("name", ["forward", "filter", "input"])
def test_a_convolution_and_its_gradients_take_the_same_arithmetic(found, name):
    assert found[f"{name}, 1"].flop == 2 * (2 * 8**3) * (32 * 16 * 3**3)
    assert found[f"{name}, 1"].window == (3, 3, 3)


@pytest.mark.parametrize("name", ["p, 1", "library, 1"])
def test_a_product_takes_two_operations_for_each_pair(found, name):
    assert found[name].flop == 2 * 16 * 32 * 64
    assert found[name].dtype == "bf16"


def test_scratch_of_a_library_is_no_traffic(found):
    assert found["library, 1"].bytes == 2 * (16 * 32 + 32 * 64 + 16 * 64)
    assert found["forward, 1"].bytes == 2 * (2 * 16 * 8**3 + 32 * 16 * 27 + 2 * 32 * 8**3)


def test_only_the_rows_that_a_fusion_reads_or_writes_are_traffic(found):
    assert found["one, 100"].bytes == 4 * (8 + 1 + 8)
    assert found["new, 100"].bytes == 4 * (8 + 1 + 8)


def test_a_loop_counts_as_often_as_it_runs_and_one_of_unknown_length_once(found):
    assert {"one, 100", "one, 1"} <= found.keys()
    assert endless_loops(parse(TEXT)) == 1


def test_the_roof_is_the_slower_of_arithmetic_and_traffic(found):
    wide, narrow = found["forward, 1"], found["t, 1"]
    assert wide.seconds(H100) == pytest.approx(max(wide.flop / 989e12, wide.bytes / 3.35e12))
    assert narrow.seconds(H100) == pytest.approx(narrow.bytes / 3.35e12)
    assert found["one, 100"].seconds(H100) == pytest.approx(100 * 68 / 3.35e12)


def test_the_highest_precision_has_a_lower_peak():
    line = "  ROOT %d = f32[64,64]{1,0} dot(%a, %a), lhs_contracting_dims={1}, rhs_contracting_dims={0}"
    text = f"ENTRY %main (a: f32[64,64]) -> f32[64,64] {{\n  %a = f32[64,64]{{1,0}} parameter(0)\n{line}"
    default, highest = (
        kernels(parse(f"{text}{more}\n}}"))[0] for more in ("", ", operand_precision={highest,highest}")
    )
    assert (default.highest, highest.highest) == (False, True)
    assert H100.flop_rate(highest.dtype, True) < H100.flop_rate(default.dtype, False)


def test_groups_add_up_to_the_whole_and_leave_numbers_out():
    listed = kernels(parse(TEXT))
    whole = tables.summed(listed, H100)["all"]
    for by in tables.GROUPINGS:
        groups = tables.summed(listed, H100, by)
        assert sum(totals.kernels for totals in groups.values()) == whole.kernels
        assert sum(totals.gb for totals in groups.values()) == pytest.approx(whole.gb)
    assert tables.summed(listed, H100, "name")["jit(step)/net/conv_#/conv"].kernels == 2
    assert tables.summed(listed, H100, "module")["jit(step)/net/conv_#"].kernels == 2


def test_windows_are_listed_widest_first():
    lines = tables.windows_table(kernels(parse(TEXT)), H100).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 18x9", "| 3x3x3"]


def test_collectives_are_counted_with_their_bytes():
    assert tables.collectives(kernels(parse(TEXT))) == {"all-reduce": {"count": 1, "gb": 4 * 32 / 1e9}}


def test_a_stored_text_is_reported_without_the_compiler(tmp_path, capsys):
    file = tmp_path / "step.hlo.gz"
    with gzip.open(file, "wt") as output:
        output.write(TEXT)
    (tmp_path / "step.json").write_text(json.dumps({"peak_gib": 1.5}))
    command.main(["--hlo", str(file), "--by", "kind", "--windows"])
    said = capsys.readouterr().out
    assert "| step | 1.50 |" in said
    assert "| 18x9 |" in said


def test_a_missing_compiler_is_one_line_that_says_how_to_get_it(fails, monkeypatch):
    monkeypatch.setattr(targets, "has_compiler", lambda: False)
    for main in (command.main, memory.main):
        assert "allowed: an environment with it, made by pip install 'jax[cuda12]'" in fails(main)


def test_a_flag_that_is_none_of_xla_is_refused(fails):
    assert "--flags is nhwc; allowed: xla_NAME=VALUE" in fails(command.main, "--flags", "nhwc")


def test_the_same_program_is_compiled_once(tmp_path, monkeypatch):
    lowered = jax.jit(lambda x: x + 1).lower(jax.ShapeDtypeStruct((4,), "float32"))
    made = compiling.compiled(lowered, "a + 1", H100, store=tmp_path)
    assert made.memory["peak_gib"] > 0
    monkeypatch.setattr(compiling, "_memory", lambda found: pytest.fail("it was compiled again"))
    assert compiling.compiled(lowered, "a + 1", H100, store=tmp_path) == made
    other = jax.jit(lambda x: x + 2).lower(jax.ShapeDtypeStruct((4,), "float32"))
    with pytest.raises(pytest.fail.Exception, match="again"):
        compiling.compiled(other, "a + 1", H100, store=tmp_path)


def test_a_flag_that_xla_does_not_know_is_refused(tmp_path):
    lowered = jax.jit(lambda x: x + 1).lower(jax.ShapeDtypeStruct((4,), "float32"))
    with pytest.raises(UserError, match=r"--flags is xla_no_such_flag: .*; allowed: flags that this XLA knows"):
        compiling.compiled(lowered, "a + 1", H100, {"xla_no_such_flag": "true"}, tmp_path)


def test_rows_of_memory_that_earlier_calls_have_planned_are_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "RESULTS", tmp_path)
    monkeypatch.setattr(
        memory, "measured", lambda *_: {"peak_gib": 2.0, "held_gib": 1.0, "collectives": {"all-reduce": SUMS}}
    )
    memory.main(["--stages", "diffusion", "--manners", "float32", "--blocks"])
    memory.main(["--stages", "--blocks", "decoder", "--size", "64"])
    memory.main(["--stages", "diffusion", "--manners", "bfloat16", "--blocks"])
    kept = json.loads((tmp_path / "memory_rtx4090.json").read_text())["results"]
    assert kept["128^3"]["training step of diffusion"].keys() == {"float32", "bfloat16"}
    assert kept["64^3"].keys() == {"decoder, 1 at once", "decoder, 4 at once"}
    assert "| 2.00 | 1.00 | 3 all-reduce, 0.50 GB |" in capsys.readouterr().out


def test_a_sampler_counts_as_the_network_at_each_step(tmp_path):
    """The CPU's compiler stands for the GPU's: its text has the same form."""
    found = {}
    for name in ("g_theta", "sampler, 10 steps"):
        lowered = programs.lower(name, programs.Case(size=16, dtype="float32", change=narrow), jax.devices()[:1])
        listed = kernels(parse(compiling.compiled(lowered, name, H100, store=tmp_path).text))
        found[name] = tables.summed(listed, H100)["all"].gflop
    assert found["g_theta"] > 0
    assert found["sampler, 10 steps"] == pytest.approx(10 * found["g_theta"], rel=0.1)


def test_a_batch_that_does_not_split_over_the_devices_is_refused():
    with pytest.raises(UserError, match="--batch is 3; allowed: multiples of the 2 devices"):
        programs.lower("ct_vqgan step", programs.Case(size=16, batch=3, change=narrow), jax.devices()[:2])


def narrow(config):
    """Shrink every network, but neither the taps of its convolutions nor the number of the critics' layers."""
    for name in ("ct_vqgan", "view_vqgan", "new_view_vqgan"):
        config[name].network.update({"n_hiddens": 4, "n_codes": 32, "num_groups": 4, "decoder_res_blocks": 1})
        config[name].loss.update({"perceptual": 0.0, "disc_width": 4})
    for name in ("new_view", "diffusion"):
        config[name].network.update({"dim": 8, "dim_mults": (1, 2), "heads": 1, "head_dim": 8})


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("stage", [stage for stage in PAPER_STAGES if stage not in ("view_vqgan", "new_view_vqgan")])
def test_no_convolution_of_a_training_step_has_a_wide_window(stage, tmp_path):
    """A gradient that XLA cannot turn into one of cuDNN's kinds is a convolution whose window is an image.

    At 48^3 such windows are of 48, 24, 9 and 8, in the transposed convolutions and in the 2D critic.
    """
    case = programs.Case(size=48, batch=1, change=narrow)
    lowered = programs.lower(f"{stage} step", case, targets.devices(H100))
    listed = kernels(parse(compiling.compiled(lowered, stage, H100, store=tmp_path).text))
    convolutions = [kernel for kernel in listed if kernel.window]
    assert len(convolutions) > 10
    assert not {k.window: k.op_name for k in convolutions if max(k.window) > WIDEST}
