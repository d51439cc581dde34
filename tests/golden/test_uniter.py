"""UNITER against vectors of the original code."""

import json
from random import Random

import pytest
import torch
from torch.nn import functional as F
from transformers import BertConfig

from tests.golden.cases import golden, load
from weft.errors import UserError
from weft.ops.ipot import cosine_cost, ipot, transport_distance
from weft.systems.uniter.heads import UniterFor, rank_loss
from weft.systems.uniter.masking import mask_regions, mask_words
from weft.systems.uniter.network import UniterNet, compact, gather_index
from weft.systems.uniter.objectives import UniterForPretraining, mrc_kl_loss, mrc_loss
from weft.tokens import Tokens

CLOSE = {"rtol": 0, "atol": 1e-10}


@golden("uniter_ot")
def test_word_region_alignment(path):
    case = load(path)
    t, config = case.tensors, case.config["config"]
    single = t["input.txt_emb"].dtype == torch.float32
    close = {"rtol": 0, "atol": 1e-5 if single else 1e-10}
    text, image = (t[f"input.{name}_emb"].requires_grad_() for name in ("txt", "img"))
    x, y = Tokens(text, ~t["input.txt_pad"].bool()), Tokens(image, ~t["input.img_pad"].bool())
    settings = {"beta": config["beta"], "iterations": config["iteration"]}
    cost = cosine_cost(x, y)
    torch.testing.assert_close(cost, t["output.cost"], **close)
    torch.testing.assert_close(ipot(cost, x.mask, y.mask, **settings), t["output.plan"], **close)
    if "output.plan_after_1_iter" in t:
        first = ipot(cost, x.mask, y.mask, beta=config["beta"], iterations=1)
        torch.testing.assert_close(first, t["output.plan_after_1_iter"], **close)
    distance = transport_distance(x, y, **settings)
    torch.testing.assert_close(distance, t["output.distance"], **close)
    (distance * torch.linspace(0.5, 1.5, len(distance), dtype=distance.dtype)).sum().backward()
    torch.testing.assert_close(text.grad, t["grad.txt_emb"], **close)
    torch.testing.assert_close(image.grad, t["grad.img_emb"], **close)


def stored(case):
    """Weights under their published names, in float64."""
    return {name.removeprefix("state."): t.double() for name, t in case.tensors.items() if name.startswith("state.")}


def batch(t):
    """Arguments of the trunk; ``regions`` requires a gradient."""
    words, total = lengths(t)
    features = t["input.img_feat"].double().requires_grad_()
    ids, places = t["input.input_ids"], t["input.img_pos_feat"].double()
    regions = Tokens(features, torch.arange(features.shape[1]) < (total - words)[:, None])
    return features, (ids, torch.arange(ids.shape[1]) < words[:, None], regions, places)


def lengths(t):
    """Words and places of each row, from what the original code was given."""
    total = t["input.attn_masks"].sum(dim=1)
    width = t["input.input_ids"].shape[1]
    index = t["input.gather_index"]
    from_image = (index >= width) & t["input.attn_masks"].bool()
    return total - from_image.sum(dim=1), total


def check_gradients(case, named, features, prefix="grad."):
    checked = 0
    for name, tensor in case.tensors.items():
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            grad = features.grad if name == "input.img_feat" else named[name].grad
            torch.testing.assert_close(grad, tensor, **CLOSE)
            checked += 1
    assert checked


@golden("uniter_embeddings")
def test_embeddings(path):
    case = load(path)
    t = case.tensors
    names = {"text": "embeddings", "image": "img_embeddings"}
    state = {}
    for name, tensor in stored(case).items():
        side, rest = name.split(".", 1)
        state[f"{names[side]}.{rest}"] = tensor
    c = case.config["config"]
    config = BertConfig(
        vocab_size=c["vocab_size"],
        hidden_size=c["H"],
        num_hidden_layers=0,
        num_attention_heads=c["heads"],
        max_position_embeddings=len(state["embeddings.position_embeddings.weight"]),
    )
    net = UniterNet(config, c["img_dim"]).double().eval()
    net.load_state_dict(state, strict=False)
    features, (ids, ids_mask, regions, places) = batch(t)
    torch.testing.assert_close(net.embeddings(input_ids=ids), t["output.text"], **CLOSE)
    typed = net.embeddings(input_ids=ids, token_type_ids=t["input.token_type_ids"])
    torch.testing.assert_close(typed, t["output.text_typed"], **CLOSE)
    types = net.embeddings.token_type_embeddings.weight[1]
    image = net.img_embeddings(features, places, types)
    torch.testing.assert_close(image, t["output.image"], **CLOSE)
    masked = net.img_embeddings(features, places, types, t["input.img_masks"].bool())
    torch.testing.assert_close(masked, t["output.image_masked"], **CLOSE)
    joint = net.embed(ids, ids_mask, regions, places)
    real = t["input.attn_masks"].bool()
    torch.testing.assert_close(joint.tokens.mask, real)
    torch.testing.assert_close(joint.tokens.values[real], t["output.compact"][real], **CLOSE)
    (image * torch.linspace(-1, 1, image.numel(), dtype=image.dtype).reshape(image.shape)).sum().backward()
    check_gradients(case, {f"image.{n}": p for n, p in net.img_embeddings.named_parameters()}, features)


def pretraining(case):
    """The network, features, features with hidden regions replaced, the sequence and which regions are hidden.

    The original adds the learned vector to features that came zeroed, so its gradient of the features is the one of
    what enters; ours hides the regions itself, and none of theirs comes back.
    """
    net = UniterForPretraining.from_official(stored(case), heads=case.config["config"]["heads"]).eval()
    features, arguments = batch(case.tensors)
    masked = case.tensors.get("input.img_masks")
    masked = None if masked is None else masked.bool()
    entered = []

    def keep(_module, inputs):
        inputs[0].retain_grad()
        entered.append(inputs[0])

    net.uniter.img_embeddings.img_linear.register_forward_pre_hook(keep)
    sequence = net(*arguments, masked=masked)
    return net, features, entered[0], sequence, masked


@golden("uniter_pretrain")
def test_pretraining(path):
    case = load(path)
    t = case.tensors
    net, features, entered, sequence, masked = pretraining(case)
    found = {}
    if "input.txt_labels" in t:
        found["scores"], found["loss"] = net.mlm(sequence, t["input.txt_labels"])
        found["pooled"] = net.uniter.pooled(sequence)
        real = t["input.attn_masks"].bool()
        torch.testing.assert_close(sequence.tokens.values[real], t["output.sequence"][real], **CLOSE)
        total = found["loss"].mean()
    elif "input.feat_targets" in t:
        found["pred"], found["loss"] = net.mrfr(sequence, masked, t["input.feat_targets"])
        total = found["loss"].mean()
    elif "input.label_targets" in t:
        found["logits"] = net.mrc(sequence, masked)
        found["loss_mrc"] = mrc_loss(found["logits"], t["input.label_targets"])
        found["loss_mrckl"] = mrc_kl_loss(found["logits"], t["input.label_targets"])
        total = found["loss_mrc"].mean()
    else:
        match = t["input.targets"]
        found["scores"] = net.itm(sequence)
        found["loss_itm"], distance, found["total"] = net.itm_wra(sequence, match)
        found["ot_pos"], found["ot_neg"] = distance[match == 1], distance[match == 0]
        total = found["total"]
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, t[f"output.{name}"], **CLOSE)
    total.backward(retain_graph=True)
    check_gradients(case, dict(net.named_parameters()), entered)
    if masked is not None:
        assert not features.grad[masked].any()
    if "loss_mrckl" in found:
        net.zero_grad()
        entered.grad = None
        found["loss_mrckl"].mean().backward()
        check_gradients(case, dict(net.named_parameters()), entered, "grad_kl.")


@golden("uniter_masking", only=("indices",))
def test_indices(path):
    case = load(path)
    t = case.tensors
    index = gather_index(t["input.txt_lens"], t["input.num_bbs"], case.config["config"]["max_txt_len"])
    real = torch.arange(index.shape[1]) < (t["input.txt_lens"] + t["input.num_bbs"])[:, None]
    assert torch.equal(index[real], t["output.gather_index"][:, : index.shape[1]][real])


CLASSES = {
    "UniterForVisualQuestionAnswering": "vqa",
    "UniterForVisualEntailment": "vqa",
    "UniterForVisualCommonsenseReasoning": "vcr",
    "UniterForNlvr2Paired": "nlvr2-pair",
    "UniterForNlvr2Triplet": "nlvr2-triplet",
    "UniterForNlvr2PairedAttn": "nlvr2-biattn",
    "UniterForImageTextRetrieval": "rank",
    "UniterForReferringExpressionComprehension": "re",
}


@golden("uniter_heads")
def test_heads(path):
    case = load(path)
    t, head = case.tensors, CLASSES[case.config["source"]["cls"]]
    head += "-mlp" if case.config["config"].get("mlp") == 2 else ""
    net = UniterFor.from_official(stored(case), head, heads=case.config["config"]["heads"]).eval()
    features, arguments = batch(t)
    types = {"text_types": t.get("input.txt_type_ids"), "image_types": t.get("input.img_type_ids")}
    found = net(*arguments, **types)
    if head == "vqa":
        loss = F.binary_cross_entropy_with_logits(found, t["input.targets"], reduction="none")
    elif head == "rank":
        loss = rank_loss(found.view(-1, case.config["lists"]["sample_size"]))
    else:
        loss = F.cross_entropy(found, t["input.targets"].view(-1), reduction="mean" if head == "vcr" else "none")
    torch.testing.assert_close(found[:, 1:] if head == "vcr" else found, t["output.scores"], **CLOSE)
    torch.testing.assert_close(loss, t["output.loss"], **CLOSE)
    loss.mean().backward()
    named = {name.removeprefix("head."): p for name, p in net.named_parameters()}
    for p in named.values():
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    check_gradients(case, named, features)


@golden("uniter_masking", only=("python_rng",), suffix="json")
def test_what_is_hidden(path):
    recorded = json.loads(path.read_text())
    for case in recorded["cases"]:
        shown, labels = mask_words(
            case["tokens"], Random(case["seed"]), mask=recorded["mask_id"], vocabulary=range(*recorded["v_range"])
        )
        assert (shown, labels) == (case["masked"], case["labels"])
        hidden = mask_regions(12, Random(case["seed"]))
        assert hidden == [bool(value) for value in case["img_mask_n12"]]


def test_regions_answer_through_two_layers_too():
    config = BertConfig(vocab_size=5, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    net = UniterFor(config, 3, "re-mlp").eval()
    ids, there = torch.tensor([[1, 2], [3, 4]]), torch.ones(2, 2, dtype=torch.bool)
    regions = Tokens(torch.randn(2, 3, 3), torch.arange(3) < torch.tensor([[3], [1]]))
    found = net(ids, there, regions, torch.rand(2, 3, 7))
    assert found.shape == (2, 3)
    assert found[1, 1:].tolist() == [-1e4, -1e4]


def test_a_head_that_is_not_there_is_named():
    config = BertConfig(vocab_size=5, hidden_size=4, num_hidden_layers=1, num_attention_heads=1)
    with pytest.raises(UserError, match="did you mean 'rank'"):
        UniterFor(config, 3, "rnak")
    with pytest.raises(UserError, match="'vqa' have the published names"):
        UniterFor.from_official({"vqa_output.3.bias": torch.zeros(2)}, "vqa", heads=1)


def test_words_without_regions_are_refused():
    text = Tokens(torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool))
    empty = Tokens(torch.zeros(2, 5, 4), torch.arange(5) < torch.tensor([[5], [0]]))
    with pytest.raises(UserError, match="row 1 of image"):
        compact(text, empty)


def test_missing_weights_are_named():
    with pytest.raises(UserError, match="published names"):
        UniterForPretraining.from_official({"itm_output.weight": torch.zeros(2, 4)}, heads=2)
