"""Checks that `rwkv` and the programs people use mean the same by each other's files.

Prints one line a check and closes with 'N passed, N failed'.
"""

import argparse
import collections
import os
import struct
import sys
import tempfile
import warnings
from pathlib import Path

os.environ["RWKV_JIT_ON"] = "0"
os.environ["RWKV_CUDA_ON"] = "0"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
warnings.filterwarnings("ignore")

import torch
from safetensors.torch import load_file, save_file
from transformers.utils.logging import disable_progress_bar

from interop_support import IDS, Checks, Program, close, random_rwkv4, reference

CONFIG = """
model: {{n_layer: 2, n_embd: 32{extra_model}}}
data: {{kind: bytes, path: {text}}}
train: {{out_dir: {out}, ctx_len: 32, micro_bsz: 4, max_steps: 30}}
schedule: {{unit: steps, segments: [{{until: 30, lr: {{exp: [1.0e-2, 1.0e-3]}}}}]}}
"""


def train(program, folder, extra_model=""):
    """A model of 30 steps in `folder`; returns the path of its .pth."""
    folder.mkdir()
    text = folder / "text.txt"
    text.write_text("The cat sat on the mat. The dog sat on the log.\n" * 400)
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(text=text, out=folder / "out", extra_model=extra_model))
    program.run("train", config)
    return folder / "out" / "rwkv-30.pth"


# --- what our program writes, in Python ---


def check_load(pth, checkpoint):
    plain = torch.load(pth)  # weights_only by default
    mapped = torch.load(pth, mmap=True)
    masters = load_file(checkpoint / "model.safetensors")
    assert list(plain) == list(mapped) and set(plain) == set(masters), "names differ"
    for name, tensor in plain.items():
        assert tensor.is_contiguous() and tensor.dtype == torch.float32, name
        assert torch.equal(tensor, masters[name]) and torch.equal(tensor, mapped[name]), name
    assert plain["blocks.0.att.time_mix_k"].shape == (1, 1, 32)


def check_reference(program, model, weights):
    expected = reference(weights, IDS)
    notes = [close(program.logits(model, mode), expected, 1e-4) for mode in ("parallel", "recurrent")]
    return ", ".join(notes)


def check_sources_agree(program, pth, checkpoint):
    first = program.logits(pth)
    for model in (checkpoint, checkpoint / "model.safetensors", checkpoint.parent):
        assert torch.equal(first, program.logits(model)), model


def check_rwkv_package(program, pth, folder, dtype, bound):
    """The package folds ln0 into the embedding in the file's type, hence the bounds."""
    from rwkv.model import RWKV

    exported = program.convert(pth, folder / f"package-{pth.stem}-{dtype}.pth", "pth", "--dtype", dtype)
    theirs, _ = RWKV(model=str(exported), strategy="cpu fp32", verbose=False).forward(IDS, None, full_output=True)
    return close(program.logits(exported), theirs, bound)


def transformers_logits(folder, dtype=torch.float32):
    from transformers import AutoModelForCausalLM

    net, loading = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not loading[what], f"{what}: {loading[what]}"
    with torch.no_grad():
        return net.eval()(torch.tensor([IDS])).logits[0].double()


def check_our_folder(program, source, folder, *options):
    exported = program.convert(source, folder, "hf", *options)
    if "--shard-gb" in options:
        shards = list(exported.glob("model-*.safetensors"))
        assert len(shards) > 2 and (exported / "model.safetensors.index.json").exists(), shards
    return close(program.logits(exported), transformers_logits(exported), 1e-4)


def check_tokenizer(program, source, folder):
    from tokenizers import Tokenizer, models
    from transformers import AutoTokenizer

    tokenizer = Tokenizer(models.WordLevel({"<|endoftext|>": 0, "cat": 1}, unk_token="<|endoftext|>"))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder.with_suffix(".json")))
    program.convert(source, folder, "hf", "--tokenizer", folder.with_suffix(".json"))
    loaded = AutoTokenizer.from_pretrained(folder)
    assert loaded.encode("cat") == [1] and loaded.eos_token_id == 0, loaded


def read_rwkv_cpp(path):
    """The tensors of a file of rwkv.cpp, with its raw decays, read apart from our program."""
    data = path.read_bytes()
    magic, version, vocab, width, layers, dtype = struct.unpack("<6i", data[:24])
    assert magic == 0x67676D66 and version in (100, 101), "header"
    tensors, at = {}, 24
    while at < len(data):
        rank, length, kind = struct.unpack_from("<3i", data, at)
        dims = struct.unpack_from(f"<{rank}i", data, at + 12)[::-1]
        at += 12 + 4 * rank
        name = data[at : at + length].decode()
        at += length
        tensor = torch.frombuffer(
            bytearray(data[at:]), dtype=(torch.float32, torch.float16)[kind], count=int(torch.tensor(dims).prod()))
        at += tensor.numel() * tensor.element_size()
        tensors[name] = tensor.reshape(dims)
    assert tensors["emb.weight"].shape == (vocab, width) and f"blocks.{layers - 1}.ln1.bias" in tensors, "sizes"
    return tensors, dtype


def check_rwkv_cpp(program, weights, source, folder, dtype):
    exported = program.convert(source, folder / f"{dtype}.bin", "rwkv.cpp", "--dtype", dtype)
    tensors, kind = read_rwkv_cpp(exported)
    assert kind == (1 if dtype == "fp16" else 0) and set(tensors) == set(weights)
    for name, tensor in weights.items():
        expected = tensor.squeeze() if ".time_" in name else tensor
        if name.endswith(".time_decay"):
            expected = -torch.exp(expected)
        half = dtype == "fp16" and expected.dim() > 1
        expected = expected.half() if half else expected
        assert tensors[name].dtype == expected.dtype and tensors[name].shape == expected.shape, name
        torch.testing.assert_close(tensors[name], expected, rtol=1e-6, atol=0)
    return close(program.logits(exported), program.logits(source), 1e-5 if dtype == "fp32" else 5e-3)


def check_their_rwkv_cpp(program, folder, source):
    expected_file = source.parent / "expected-logits-4v0-660K.bin"
    expected = torch.tensor(struct.unpack("<256f", expected_file.read_bytes()))
    logits = program.logits(source, ids=[34, 105, 110])[-1]
    note = close(logits, expected, 1e-5 if "FP32" in source.name else 1e-2)
    again = program.convert(source, folder / f"again-{source.name}", "rwkv.cpp").read_bytes()
    original = source.read_bytes()
    assert original[:4] + original[8:] == again[:4] + again[8:], "written again it differs"
    return note


# --- what Python writes, in our program ---


def check_their_folder(program, folder, shard_size):
    from transformers import RwkvConfig, RwkvForCausalLM

    torch.manual_seed(3)
    net = RwkvForCausalLM(RwkvConfig(vocab_size=256, hidden_size=32, num_hidden_layers=3, context_length=64,
                                     rescale_every=0))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    net.save_pretrained(folder, max_shard_size=shard_size)
    assert len(list(folder.glob("*.safetensors"))) == (1 if shard_size == "1GB" else len(list(folder.glob("*-of-*"))))
    with torch.no_grad():
        theirs = net.eval()(torch.tensor([IDS])).logits[0]
    return close(program.logits(folder), theirs, 1e-4)


def check_old_upload(program, source, weights, folder, shards):
    """pytorch_model.bin, as uploads of before safetensors have it, whole or in shards."""
    import json

    program.convert(source, folder, "hf")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        names, weight_map = list(tensors), {}
        for i in range(shards):
            file = f"pytorch_model-{i + 1:05}-of-{shards:05}.bin"
            part = {name: tensors[name] for name in names[i::shards]}
            torch.save(part, folder / file, _use_new_zipfile_serialization=i % 2 == 0)
            weight_map.update({name: file for name in part})
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return close(program.logits(folder), reference(weights, IDS), 1e-4)


def pth_shapes(weights):
    """Name -> what torch.save gets (and its options), for all shapes in which weights are handed around."""
    ordered = collections.OrderedDict(weights)
    ordered._metadata = collections.OrderedDict({"": {"version": 1}})
    big = torch.cat([tensor.flatten() for tensor in weights.values()])
    views, at = {}, 0
    for name, tensor in weights.items():
        views[name] = big[at : at + tensor.numel()].view(tensor.shape)
        at += tensor.numel()
    turned = {n: t.t().contiguous().t() if t.dim() == 2 else t for n, t in weights.items()}
    mixed = {n: t.double() if n == "emb.weight" else t for n, t in weights.items()}
    shapes = {
        "plain dict": (weights, {}),
        "OrderedDict with _metadata": (ordered, {}),
        "under 'model', with other values": ({"model": ordered, "epoch": 3, "loss": [1.5, None], "name": "x"}, {}),
        "under 'state_dict'": ({"state_dict": weights}, {}),
        "under 'module'": ({"module": ordered, "global_steps": 7}, {}),
        "prefix module.": ({"module." + n: t for n, t in weights.items()}, {}),
        "prefix _forward_module.model.": ({"_forward_module.model." + n: t for n, t in weights.items()}, {}),
        "Parameters": ({n: torch.nn.Parameter(t.clone()) for n, t in weights.items()}, {}),
        "one shared storage": (views, {}),
        "column-major matrices": (turned, {}),
        "fp64": ({n: t.double() for n, t in weights.items()}, {}),
        "types mixed": (mixed, {}),
        "time_mix flat": ({n: t.flatten() if "time_mix" in n else t for n, t in weights.items()}, {}),
        "a mask buffer beside": ({**weights, "copy_mask": torch.ones(4, 4).tril().bool()}, {}),
    }
    for protocol in (3, 4, 5):
        shapes[f"pickle protocol {protocol}"] = (ordered, {"pickle_protocol": protocol})
    for name in ("plain dict", "OrderedDict with _metadata", "one shared storage", "column-major matrices", "Parameters"):
        shapes[name + ", legacy format"] = (shapes[name][0], {"_use_new_zipfile_serialization": False})
    return shapes


def check_pth_shape(program, expected, weights, options, path, replace=None):
    torch.save(weights, path, **options)
    if replace:
        data = path.read_bytes()
        assert replace[0] in data, "nothing to replace"
        path.write_bytes(data.replace(*replace))
    return close(program.logits(path), expected, 1e-5)


def check_rounded(program, weights, path, dtype, save):
    rounded = {name: tensor.to(dtype) for name, tensor in weights.items()}
    save(rounded, path)
    return close(program.logits(path), reference(rounded, IDS), 1e-4)


def check_means(program, weights, path):
    torch.save({**weights, "count": torch.arange(5)}, path)
    report = program.info(path)
    assert report["model"]["n_layer"] == 3 and report["model"]["vocab_size"] == 256, report["model"]
    found = {tensor["name"]: tensor for tensor in report["tensors"]}
    assert found["count"]["dtype"] == "i64" and found["count"]["mean"] == 2, found["count"]
    for name, tensor in weights.items():
        assert found[name]["shape"] == list(tensor.shape), name
        assert abs(found[name]["mean"] - tensor.double().mean().item()) < 1e-9, name


def check_no_code_runs(program, folder):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {folder / 'ran'}",)

    for name, options in (("zip", {}), ("legacy", {"_use_new_zipfile_serialization": False})):
        path = folder / f"evil-{name}.pth"
        torch.save({"emb.weight": torch.ones(2), "x": Evil()}, path, **options)
        program.refuses("posix.system", "info", path)
        program.refuses("posix.system", "convert", path, folder / "out.pth", "--to", "pth")
    assert not (folder / "ran").exists(), "code ran"


def check_finetune(program, source, weights, folder):
    """Starts from somebody's file; frozen parameters keep their bits, others move."""
    text = folder / "tune.txt"
    text.write_text("the quick brown fox\n" * 400)
    config = folder / "tune.yaml"
    config.write_text(f"""
data: {{kind: bytes, path: {text}}}
train: {{out_dir: {folder / 'tuned'}, ctx_len: 32, micro_bsz: 4, max_steps: 5, init_from: {source}}}
optimizer: {{freeze: [emb.weight, "blocks.?.att.*"]}}
schedule: {{unit: steps, segments: [{{until: 5, lr: {{constant: 1.0e-4}}}}]}}
""")
    program.run("train", config)
    tuned = torch.load(folder / "tuned" / "rwkv-5.pth")
    for name, tensor in weights.items():
        frozen = name == "emb.weight" or ".att." in name
        assert torch.equal(tuned[name], tensor) == frozen, f"{name}: {'moved' if frozen else 'did not move'}"
    program.refuses("model.n_layer is 5 in the configuration and 3 there", "train", config, "--set", "model.n_layer=5",
                    "--set", f"train.out_dir={folder / 'other'}")


def all_checks(check, program, folder):
    weights = random_rwkv4()
    expected = reference(weights, IDS)
    random_pth = folder / "random.pth"
    torch.save(weights, random_pth)
    odd = random_rwkv4(dim_att=64, dim_ffn=96, seed=2)
    odd_pth = folder / "odd.pth"
    torch.save(odd, odd_pth)
    trained = train(program, folder / "trained")
    checkpoint = trained.parent / "step-00000030"
    special = train(program, folder / "special", ", head_qk: 16, pre_ffn: true")
    sources = (("random", random_pth), ("trained", trained))

    check("torch.load reads rwkv-N.pth, mmap too; equal to model.safetensors", lambda: check_load(trained, checkpoint))
    check("trained logits equal an independent float64 forward pass",
          lambda: check_reference(program, trained, torch.load(trained)))
    check("random logits equal it", lambda: check_reference(program, random_pth, weights))
    check("with dim_att and dim_ffn of their own", lambda: check_reference(program, odd_pth, odd))
    check("logits are equal from .pth, checkpoint, its safetensors and the run's folder",
          lambda: check_sources_agree(program, trained, checkpoint))
    for name, source in sources:
        for dtype, bound in (("fp32", 1e-4), ("bf16", 1e-2), ("fp16", 1e-3)):
            check(f"rwkv package reads our .pth ({name}, {dtype})",
                  lambda: check_rwkv_package(program, source, folder, dtype, bound))
        check(f"transformers reads our folder ({name})",
              lambda: check_our_folder(program, source, folder / f"hf-{name}"))
    check("transformers reads our folder in shards",
          lambda: check_our_folder(program, random_pth, folder / "hf-shards", "--shard-gb", "0.00005"))
    check("transformers reads our folder in bf16",
          lambda: check_our_folder(program, random_pth, folder / "hf-bf16", "--dtype", "bf16"))
    check("transformers reads our folder from a checkpoint",
          lambda: check_our_folder(program, checkpoint, folder / "hf-checkpoint"))
    check("transformers loads the tokenizer we put beside it",
          lambda: check_tokenizer(program, random_pth, folder / "hf-tokenizer"))
    for dtype in ("fp32", "fp16"):
        check(f"rwkv.cpp files are those of its converter ({dtype})",
              lambda: check_rwkv_cpp(program, weights, random_pth, folder, dtype))
    files = os.environ.get("RWKV_CPP_FILES")
    for name in ("tiny-rwkv-4v0-660K-FP32.bin", "tiny-rwkv-4v0-660K-FP16.bin") if files else ():
        check(f"{name} gives its published logits and comes back", lambda: check_their_rwkv_cpp(program, folder, Path(files, name)))
    if not files:
        print("skipped: rwkv.cpp's own files, RWKV_CPP_FILES names no folder")
    for target, name in (("hf", "transformers"), ("rwkv.cpp", "rwkv.cpp")):
        check(f"Head-QK and pre_ffn are not exported to {name}",
              lambda: program.refuses("cannot express", "convert", special, folder / "special.out", "--to", target))

    for shard_size in ("1GB", "40KB"):
        check(f"we read a folder of transformers' save_pretrained (shards of {shard_size})",
              lambda: check_their_folder(program, folder / f"theirs-{shard_size}", shard_size))
    for shards in (1, 3):
        check(f"we read pytorch_model.bin in {shards} file(s)",
              lambda: check_old_upload(program, random_pth, weights, folder / f"old-{shards}", shards))
    for number, (name, (saved, options)) in enumerate(pth_shapes(weights).items()):
        check(f"we read a .pth: {name}",
              lambda: check_pth_shape(program, expected, saved, options, folder / f"shape-{number}.pth"))
    cuda = (b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    check("we read a .pth: saved from cuda (legacy format)",
          lambda: check_pth_shape(program, expected, weights, {"_use_new_zipfile_serialization": False},
                                  folder / "cuda.pth", cuda))
    for dtype in (torch.bfloat16, torch.float16):
        check(f"we read a .pth in {dtype}",
              lambda: check_rounded(program, weights, folder / f"{dtype}.pth", dtype, torch.save))
        check(f"we read safetensors in {dtype}",
              lambda: check_rounded(program, weights, folder / f"{dtype}.safetensors", dtype, save_file))
    check("names, shapes, types and means of 'rwkv info' agree with torch",
          lambda: check_means(program, weights, folder / "means.pth"))
    check("code in a .pth is refused and does not run", lambda: check_no_code_runs(program, folder))
    check("fine-tuning starts from a file, frozen parameters keep their bits",
          lambda: check_finetune(program, random_pth, weights, folder))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rwkv", required=True, help="the program to check")
    program_path = str(Path(parser.parse_args().rwkv).resolve())
    torch.set_num_threads(2)
    disable_progress_bar()
    check = Checks()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        all_checks(check, Program(program_path, folder), folder)
    print(f"{check.passed} passed, {check.failed} failed")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
