#!/usr/bin/env python3
"""Writes archive-log.txt, the long document of demo.sh: the log of an archive's watch, one entry per watch.

Made up, from a seed, so that the text is nobody's. One entry of sixty changes the code of the north door, an earlier one
names the code before; nothing else in the log tells either. The questions a model of 135 million parameters can answer
about it are those that repeat the log's own words.
Run: examples/make_archive_log.py > examples/archive-log.txt
"""

import random

DAYS = 30
OLD_CODE_DAY = 3  # the day whose morning watch names the old code
CODE_DAY = 12  # the day whose evening watch writes the line the demo asks for

PEOPLE = ["Ana", "Bertil", "Chidi", "Dora", "Emre", "Femke"]
ROOMS = ["the map room", "the reading room", "the cold store", "the film vault", "the east stacks", "the bindery"]
OPENING = [
    "{a} took over from {b}.",
    "{a} on duty, {b} left at the hour.",
    "Handover from {b} to {a}, keys counted.",
]
WORK = [
    "Moved {n} boxes of parish registers from {r} to {s}.",
    "{a} rewound {n} reels in {r}; two had stuck edges and went into the mending tray.",
    "The dehumidifier in {r} ran {h} hours and was emptied twice.",
    "Temperature in {r} {t} degrees, humidity {u} percent.",
    "A visitor from the university asked for the harbour plans and read them in {r} until closing.",
    "{a} found a torn page in a ledger of 18{y} and laid it between blotting papers.",
    "The lamp over the third table in {r} flickered; {b} changed the tube.",
    "Rain from the west all day, the gutter over {r} held.",
    "{b} catalogued {n} letters, most of them about the price of salt and timber.",
    "The lift stopped between floors for {n} minutes and was reset from the cellar.",
    "Delivery of acid-free folders, {n} of each size, stored in {r}.",
    "The cat from the bakery got in again and slept on the radiator in {r}.",
    "Scanned {n} glass plates; plate {m} shows the old bridge before the flood.",
    "Telephone call about a family name; {a} promised an answer by letter.",
    "{b} oiled the hinges of the cabinet in {r} and wrote a new label for it.",
    "Dust counted on the test card in {r}: {n} grains, within the limit.",
]
CLOSING = ["All windows shut.", "Lights out at the hour.", "Nothing else.", "Alarm set.", "Quiet night."]


def entry(rng, day, watch):
    a, b = rng.sample(PEOPLE, 2)
    sentences = [rng.choice(OPENING).format(a=a, b=b)]
    for line in rng.sample(WORK, rng.randint(3, 4)):
        r, s = rng.sample(ROOMS, 2)
        sentences.append(line.format(
            a=a, b=b, r=r, s=s, n=rng.randint(3, 48), m=rng.randint(100, 400), h=rng.randint(4, 11),
            t=rng.randint(14, 19), u=rng.randint(38, 52), y=rng.randint(10, 98)))
    if day == OLD_CODE_DAY and watch == "morning":
        sentences.insert(0, "The access code of the north door is still 4118.")
    if day == CODE_DAY and watch == "evening":
        sentences.append("The access code of the north door was changed today. The new access code is 7305.")
    sentences.append(rng.choice(CLOSING))
    return f"March {day}, {watch} watch. " + " ".join(sentences)


def main():
    rng = random.Random(20)
    print("Log of the Harbour Archive, kept by the watch.\n")
    for day in range(1, DAYS + 1):
        for watch in ("morning", "evening"):
            print(entry(rng, day, watch) + "\n")


if __name__ == "__main__":
    main()
