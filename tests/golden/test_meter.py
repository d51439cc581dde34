"""METER against vectors of the original code: layers, tower, positions, and the whole network with its losses."""

import torch
from torch.nn import functional as F

from tests.golden.cases import golden, load
from weft.fusion.bert import BertLayer, load_official
from weft.fusion.co_attention import CoAttention
from weft.systems.meter.encoders import ClipTower, resize_positions
from weft.systems.meter.network import MeterNet
from weft.systems.meter.objectives import mlm_loss, vqa_loss
from weft.tokens import Tokens

TIGHT = {"rtol": 0, "atol": 1e-10}


def parts(case):
    """State in double precision, and inputs, those of floats with gradients."""
    state, given = {}, {}
    for name, tensor in case.tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "state":
            state[rest] = tensor.double()
        elif kind == "input":
            given[rest] = tensor.double().requires_grad_() if tensor.is_floating_point() else tensor
    return state, given


def ramp(x):
    return (x * torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x)).sum()


def check_gradients(case, module, given):
    grads = {name: p.grad for name, p in module.named_parameters()} | {n: t.grad for n, t in given.items()}
    wanted = {
        n.removeprefix("grad.").removeprefix("input."): t for n, t in case.tensors.items() if n.startswith("grad.")
    }
    assert wanted
    for name, tensor in wanted.items():
        found = torch.zeros_like(tensor) if name.endswith("self.key.bias") else grads[name]
        torch.testing.assert_close(found, tensor, **TIGHT)


@golden("meter_cross_layer")
def test_layer(path):
    case = load(path)
    state, given = parts(case)
    c = case.config["config"]
    layer = BertLayer(c["hidden_size"], c["num_attention_heads"], c["intermediate_size"], cross=True).double()
    load_official(layer, state)
    found = layer(Tokens(given["x"], given["x_mask"].bool()), Tokens(given["y"], given["y_mask"].bool())).values
    torch.testing.assert_close(found, case.tensors["output.hidden"], **TIGHT)
    ramp(found).backward()
    check_gradients(case, layer, given)


@golden("meter_merged_attention_derived")
def test_merged(path):
    case = load(path)
    state, given = parts(case)
    c = case.config["config"]
    sizes = c["hidden_size"], c["num_attention_heads"], c["intermediate_size"]
    layers = torch.nn.ModuleList(BertLayer(*sizes, cross=False) for _ in range(c["num_layers"])).double()
    load_official(layers, state)
    mask = torch.cat([given["x_mask"], given["y_mask"]], dim=1).bool()
    h = Tokens(torch.cat([given["x"], given["y"]], dim=1), mask)
    for layer in layers:
        h = layer(h)
    text, image = h.values.split([given["x"].shape[1], given["y"].shape[1]], dim=1)
    torch.testing.assert_close(text, case.tensors["output.text"], **TIGHT)
    torch.testing.assert_close(image, case.tensors["output.image"], **TIGHT)
    ramp(h.values).backward()
    check_gradients(case, layers, given)


@golden("meter_clip_vit")
def test_tower(path):
    case = load(path)
    state, given = parts(case)
    c = case.config["config"]
    tower = ClipTower.from_official(state, heads=c["heads"], size=c["resolution_after"])
    found = tower(given["image"])
    torch.testing.assert_close(found, case.tensors["output.tokens"], **TIGHT)
    ramp(found).backward()
    check_gradients(case, tower, given)


@golden("meter_pos_resize")
def test_positions(path):
    case = load(path)
    c = case.config["config"]
    found = resize_positions(case.tensors["input.pos"], c["image_size_after"] // c["patch_size"])
    torch.testing.assert_close(found, case.tensors["output.pos"], **TIGHT)


@golden("meter_trunk")
def test_network(path):
    case = load(path)
    state, given = parts(case)
    c = case.config["config"]
    roberta = c["text"] == "roberta"
    heads = {"heads": c["heads"], "text_heads": c["text_heads"], "image_heads": c["vision_heads"]}
    net = MeterNet.from_official(state, **heads, padding=1 if roberta else None)
    ids, mask, image = given["text_ids"], given["text_masks"].bool(), given["image"]
    joint = net(ids, mask, image)
    found, total = {"vision_encoder": net.vit_model["visual"](image), "cls_feats": joint.cls}, 0
    found["image_feats"] = joint.image
    real = {"text_encoder": net.text_transformer(ids, mask), "text_feats": joint.text}
    for task in c["tasks"]:
        if task == "mlm":
            found["mlm_logits"] = net.mlm_score(net(given["text_ids_mlm"], mask, image).text)
            loss = mlm_loss(found["mlm_logits"], given["text_labels_mlm"])
        elif task == "itm":
            right = given["itm_labels"].detach()
            shown = torch.where(right.view(-1, *[1] * (image.ndim - 1)) == 1, image, given["false_image"])
            found["itm_logits"] = net.itm_score["fc"](net(ids, mask, shown).cls)
            loss = F.cross_entropy(found["itm_logits"], right.long())
        elif task == "vqa":
            found["vqa_logits"] = net.vqa_classifier(joint.cls)
            loss = vqa_loss(found["vqa_logits"], given["vqa_targets"].detach())
        elif task == "nlvr2":
            found["nlvr2_logits"] = net.nlvr2(ids, mask, image, given["image_1"])
            loss = F.cross_entropy(found["nlvr2_logits"], given["nlvr2_labels"])
        else:
            found[f"{task}_logits"] = net.get_submodule(f"{task}_classifier")(joint.cls)
            loss = F.cross_entropy(found[f"{task}_logits"], given[f"{task}_labels"])
        found[f"{task}_loss"], total = loss, total + loss
    found["total_loss"] = total
    for name, tensor in case.tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "output" and rest in real:
            torch.testing.assert_close(real[rest][mask], tensor[mask], **TIGHT)
        elif kind == "output":
            wanted = tensor
            got = found[rest]
            if rest == "mlm_logits":
                got, wanted = got[mask], wanted[mask]
            torch.testing.assert_close(got, wanted, **TIGHT)
    total.backward()
    check_gradients(case, net, given)


@golden("meter_trunk")
def test_the_fusion_reads_the_same_checkpoint(path):
    """The fusion's tokens are the network's."""
    case = load(path)
    state, given = parts(case)
    c = case.config["config"]
    heads = {"heads": c["heads"], "text_heads": c["text_heads"], "image_heads": c["vision_heads"]}
    net = MeterNet.from_official(state, **heads, padding=1 if c["text"] == "roberta" else None)
    fusion = CoAttention.from_official(state, heads=c["heads"])
    mask = given["text_masks"].bool()
    text = Tokens(net.text_transformer(given["text_ids"], mask), mask)
    pixels = net.vit_model["visual"](given["image"])
    image = Tokens(pixels, torch.ones(pixels.shape[:2], dtype=torch.bool))
    joint = net(given["text_ids"], mask, given["image"])
    found = fusion({"text": text, "image": image}).tokens.values
    torch.testing.assert_close(found[:, : mask.shape[1]][mask], joint.text[mask], **TIGHT)
    torch.testing.assert_close(found[:, mask.shape[1] :], joint.image, **TIGHT)
