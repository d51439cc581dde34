"""NLX-GPT against vectors of the original code: decoder, decoding, concepts, sequences, filters, retrieval attack."""

from __future__ import annotations

import json

import torch

from tests.golden.cases import golden, load
from weft.ops.sampling import nucleus
from weft.systems.nlxgpt.metrics import attack_score
from weft.systems.nlxgpt.network import ConceptHead, Decoder, Marks, generate
from weft.systems.nlxgpt.sequence import Sequences, majority, spoken, word_tokenizer
from weft.tokens import Tokens

TIGHT = {"rtol": 0, "atol": 1e-10}


def parts(case, kind):
    found = {n.removeprefix(f"{kind}."): t for n, t in case.tensors.items() if n.startswith(f"{kind}.")}
    return {n: t.double() if t.is_floating_point() else t for n, t in found.items()}


def whole(values):
    return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool))


def decoder(case):
    c, state = case.config["config"], parts(case, "state")
    given = {key: c[key] for key in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")}
    boxes = any("box_embed" in name for name in state)
    net = Decoder({**given, "attn_implementation": "eager"}, c["n_embd"], boxes=boxes).double().eval()
    net.load_official(state)
    return net


@golden("nlxgpt_decoder")
def test_decoder(path):
    case = load(path)
    net, given, out = decoder(case), parts(case, "input"), parts(case, "output")
    image = given["encoder_hidden_states"].requires_grad_()
    boxes = {name: given[name] for name in ("boxes", "box_numbers") if name in given}
    found = net(given["input_ids"], given["token_type_ids"], whole(image), output_attentions=True, **boxes)
    torch.testing.assert_close(found.logits, out["logits"], **TIGHT)
    torch.testing.assert_close(found.attentions[0], out["self_attn_0"], **TIGHT)
    torch.testing.assert_close(found.cross_attentions[0], out["cross_attn_0"], **TIGHT)
    loss = net.loss(given["input_ids"], given["token_type_ids"], whole(image), given["labels"], **boxes).mean()
    torch.testing.assert_close(loss, out["loss"], **TIGHT)
    loss.backward()
    grads = {n: p.grad for n, p in net.named_parameters()} | {"encoder_hidden_states": image.grad}
    grads = {n.replace("box_embed", "transformer.box_embed"): g for n, g in grads.items()}
    wanted = parts(case, "grad")
    assert wanted
    for name, tensor in wanted.items():
        torch.testing.assert_close(grads[name], tensor, **TIGHT)


@golden("nlxgpt_generate")
def test_decoding(path):
    """One by one as recorded, all at once, and without a cache."""
    case = load(path)
    net, given, names = decoder(case), parts(case, "input"), case.config["words"]
    marks = Marks(range(5), names.index("Ġbecause"), names.index("<answer>"), names.index("<explanation>"))
    prompts = []
    for ids, segments in zip(given["prompt_ids"].tolist(), given["prompt_segments"].tolist(), strict=True):
        there = [i for i, token in enumerate(ids) if token >= 0]
        prompts.append(([ids[i] for i in there], [segments[i] for i in there]))
    image, steps = whole(given["encoder_hidden_states"]), case.config["config"]["max_new_tokens"]
    one_by_one = [
        generate(net, [prompt], Tokens(image.values[i : i + 1], image.mask[i : i + 1]), marks, steps=steps)[0]
        for i, prompt in enumerate(prompts)
    ]
    assert generate(net, prompts, image, marks, steps=steps) == one_by_one
    assert generate(net, prompts, image, marks, steps=steps, cache=False) == one_by_one
    for found, text, why in zip(one_by_one, case.config["full"], case.config["explanation"], strict=False):
        said = "".join(names[i] for i in found).replace("Ġ", " ").strip()
        assert said == text
        assert spoken(said)[1] == why


@golden("nlxgpt_concept_head")
def test_concepts(path):
    case = load(path)
    head = ConceptHead(case.config["config"]["dim"], case.config["config"]["vocab"]).double().eval()
    head.load_state_dict(parts(case, "state"))
    logits = head(whole(parts(case, "input")["x"]))
    torch.testing.assert_close(logits, parts(case, "output")["logits"], **TIGHT)
    torch.testing.assert_close(logits.sigmoid(), parts(case, "output")["probs"], **TIGHT)


@golden("nlxgpt_metrics", only=("filter",))
def test_nucleus(path):
    case = load(path)
    kept = nucleus(case.tensors["input.logits"], case.config["config"]["top_p"])
    assert kept.tolist() == case.tensors["output.kept"].tolist()


@golden("nlxgpt_metrics", only=("ra",))
def test_attack(path):
    case = load(path)
    found = attack_score(case.tensors["input.embeddings"].numpy())
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), case.tensors["output.score"], **TIGHT)


@golden("nlxgpt_metrics", only=("sequence",), suffix="json")
def test_sequences(path):
    """Both explanations of a row; the recorded second epoch repeats the first one, which is the original's mistake."""
    case = json.loads(path.read_text())
    words = sorted(case["vocab"], key=case["vocab"].__getitem__)
    toy = word_tokenizer(words[5:])
    number = dict(zip(toy.convert_tokens_to_ids(words), range(len(words)), strict=True)) | {-100: -100}
    build = Sequences(toy, case["max_seq_len"])
    (row,) = case["data"].values()
    answer = majority("\n".join(a["answer"] for a in row["answers"]))
    recorded = {tuple(item["input_ids"]): item for item in case["train"]}
    assert len(recorded) == 2
    for explanation in row["explanation"]:
        found = build.explained(row["question"], answer, explanation)
        ids, labels, segments = ([number[i] for i in part] for part in found)
        fill = case["max_seq_len"] - len(ids)
        item = recorded.pop((*ids, *[1] * fill))
        assert labels + [-100] * fill == item["labels"]
        assert segments + [4] * fill == item["segments"]
    ids, segments = build.prompt(row["question"])
    assert [number[i] for i in ids] == case["eval"]["input_ids"]
    assert [number[i] for i in segments] == case["eval"]["segments"]
