"""The dialogues the demo model is trained on: synthetic, every sentence written here, narrow enough for four million
parameters.

`chats(n)` gives n dialogues, always the same ones for the same seed.
"""

import random

DIALOGUE_TURN = "<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n{a}<|im_end|>\n"
FAQ = {  # topic phrase: ([question forms], [[alternatives of sentence 1], [alternatives of sentence 2], ...])
    "enclave": (
        [
            "What is an enclave?",
            "Explain what an enclave is.",
            "What does enclave mean?",
            "Can you tell me about enclaves?",
        ],
        [
            [
                "An enclave is an isolated virtual machine with its own memory and processor cores.",
                "An enclave is a sealed machine that runs beside its host.",
            ],
            ["It has no disk, no network card and no shell.", "It has no storage and nobody can log in to it."],
            [
                "The only way in or out is a socket to the host.",
                "All traffic goes through one socket that the host cannot read when it is encrypted.",
            ],
        ],
    ),
    "attestation": (
        [
            "What is attestation?",
            "How does attestation work?",
            "Explain attestation to me.",
            "Why do I need attestation?",
        ],
        [
            [
                "Attestation is a signed statement about the code that runs in the enclave.",
                "Attestation proves which image an enclave has started.",
            ],
            [
                "The hardware measures the image and signs the measurements.",
                "The signature comes from the platform and can be checked by anyone.",
            ],
            [
                "A client checks the measurements before it sends any data.",
                "If the measurements do not match, the client must not send its prompt.",
            ],
        ],
    ),
    "privacy": (
        [
            "Can you see my data?",
            "Is my prompt private?",
            "Who can read my prompt?",
            "Do you store my prompts?",
            "Is this conversation private?",
        ],
        [
            [
                "Your prompt is decrypted only inside the enclave.",
                "The prompt is encrypted until it reaches the enclave.",
            ],
            [
                "The operator of the host cannot read it.",
                "Neither the cloud operator nor the administrator can read it.",
            ],
            [
                "Nothing is written to disk, and the memory is cleared after the answer.",
                "The answer is encrypted before it leaves the enclave.",
            ],
        ],
    ),
    "weights": (
        [
            "Where are the model weights?",
            "How are the weights protected?",
            "Who can copy the model?",
            "How do the weights get into the enclave?",
        ],
        [
            [
                "The weights arrive encrypted and are decrypted in the memory of the enclave.",
                "The model owner encrypts the weights before they are sent.",
            ],
            [
                "The key is released only to an enclave with the right measurements.",
                "A key service gives out the key after it has checked the attestation.",
            ],
            ["They are never stored in the clear on the host.", "The host sees only encrypted bytes."],
        ],
    ),
    "key": (
        ["What is a key service?", "How is the key released?", "What does the key service do?", "Who holds the key?"],
        [
            [
                "A key service holds the key that unlocks the weights.",
                "The key service keeps the key of the model owner.",
            ],
            [
                "It checks the attestation document and the policy.",
                "It compares the measurements with the list of allowed images.",
            ],
            [
                "Then it sends the key, encrypted to the enclave.",
                "Only then does the key leave, wrapped for that one enclave.",
            ],
        ],
    ),
    "pcr": (
        ["What is a measurement?", "What is a PCR?", "What are PCR values?", "What do the measurements mean?"],
        [
            [
                "A measurement is a hash of the image that was started.",
                "A PCR is a register that holds a hash of what was loaded.",
            ],
            ["If one byte of the image changes, the hash changes too.", "The same image always gives the same value."],
            [
                "This lets a client know exactly which code will see its data.",
                "So a client can compare it with the value that was published.",
            ],
        ],
    ),
    "limits": (
        [
            "What can you not do?",
            "What are your limits?",
            "Are you always right?",
            "Can I trust your answers?",
            "How large are you?",
        ],
        [
            [
                "I am a very small demonstration model with about four million parameters.",
                "I am a tiny model that was trained for a few minutes.",
            ],
            [
                "I know a few topics and I can tell short stories.",
                "I can answer simple questions about enclaves and do small sums.",
            ],
            ["Please check anything important with a better source.", "For real work you should load a larger model."],
        ],
    ),
    "who": (
        ["Who are you?", "What are you?", "What is your name?", "Introduce yourself.", "Tell me about yourself."],
        [
            [
                "I am a small language model that runs inside an enclave.",
                "I am the demonstration model of this service.",
            ],
            [
                "I was trained on a processor, without any graphics card.",
                "I live in memory and I forget everything after each request.",
            ],
            [
                "Ask me about attestation, ask for a story, or give me a small sum.",
                "You can ask me about enclaves, keys and privacy.",
            ],
        ],
    ),
    "streaming": (
        ["What is token streaming?", "Why do the words appear one by one?", "How does streaming work?"],
        [
            ["A model writes one token at a time.", "The answer is produced token by token."],
            [
                "Each token is encrypted and sent as soon as it is ready.",
                "Every piece is sealed inside the enclave and sent at once.",
            ],
            [
                "That is why you can read the beginning before the end is written.",
                "You see the text grow while the model is still working.",
            ],
        ],
    ),
    "isolation": (
        [
            "How are partners kept apart?",
            "Can other partners see my data?",
            "How does isolation work?",
            "Is the memory shared between partners?",
        ],
        [
            ["Every partner has its own keys and its own cache.", "Each session has its own memory for the context."],
            [
                "A request can never read the context of another partner.",
                "The context of one partner is never given to another.",
            ],
            ["When a session ends, its memory is cleared.", "The cache is wiped before it is used again."],
        ],
    ),
}
ANIMALS = ["cat", "dog", "fox", "bear", "mouse", "owl", "rabbit", "duck", "horse", "frog", "turtle", "bird"]
NAMES = ["Tom", "Lily", "Ben", "Mia", "Sam", "Anna", "Max", "Lucy", "Leo", "Nora", "Jack", "Ella"]
PLACES = ["forest", "garden", "park", "village", "field", "river", "hill", "house"]
THINGS = ["ball", "key", "book", "hat", "stone", "box", "apple", "bell", "boat", "lamp"]
FEEL = ["happy", "proud", "glad", "calm"]
BAD = ["sad", "tired", "afraid", "lonely"]
ADJ = ["small", "red", "blue", "old", "shiny", "green", "big", "soft"]
TRAIT = ["kind", "brave", "clever", "curious", "quiet", "friendly"]
NUM = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty".split()
OPP = [
    ("hot", "cold"),
    ("big", "small"),
    ("happy", "sad"),
    ("fast", "slow"),
    ("light", "dark"),
    ("old", "new"),
    ("high", "low"),
    ("open", "closed"),
    ("hard", "soft"),
    ("early", "late"),
    ("strong", "weak"),
    ("full", "empty"),
    ("near", "far"),
    ("rich", "poor"),
    ("loud", "quiet"),
    ("wet", "dry"),
]
LISTS = {
    "colors": ["red", "blue", "green", "yellow", "black", "white", "orange", "purple"],
    "animals": ["a cat", "a dog", "a horse", "a fox", "a bear", "an owl", "a duck"],
    "fruits": ["apples", "pears", "plums", "grapes", "lemons", "cherries", "bananas"],
    "cities": ["Paris", "London", "Rome", "Berlin", "Tokyo", "Madrid", "Cairo"],
    "days of the week": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
    "planets": ["Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Neptune"],
}
CAP = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Japan": "Tokyo",
    "Egypt": "Cairo",
    "Norway": "Oslo",
    "Greece": "Athens",
    "Portugal": "Lisbon",
    "Austria": "Vienna",
    "Poland": "Warsaw",
    "Sweden": "Stockholm",
    "Canada": "Ottawa",
    "Kenya": "Nairobi",
    "Peru": "Lima",
    "Ireland": "Dublin",
}
HELLO = ["Hello!", "Hi there.", "Good morning.", "Hello, how are you?", "Hi!", "Good evening."]


def an(word):
    return ("an " if word[0] in "aeiou" else "a ") + word


def story(r, animal=None, name=None, place=None):
    c, n, p = animal or r.choice(ANIMALS), name or r.choice(NAMES), place or r.choice(PLACES)
    n2 = r.choice([x for x in NAMES if x != n])
    c2 = r.choice([x for x in ANIMALS if x != c])
    t, a, tr, f, b = r.choice(THINGS), r.choice(ADJ), r.choice(TRAIT), r.choice(FEEL), r.choice(BAD)
    s = [
        r.choice(
            [
                f"Once upon a time there was {an(c)} named {n}.",
                f"There once lived {an(tr)} {c} called {n}.",
                f"{n} was {an(c)} who lived near a {p}.",
            ]
        )
    ]
    s.append(
        r.choice(
            [
                f"{n} was very {tr} and liked to walk in the {p}.",
                f"Every morning {n} went to the {p} to play.",
                f"{n} loved the {p} more than any other place.",
            ]
        )
    )
    s.append(
        r.choice(
            [
                f"One day {n} found {an(a)} {t} under a tree.",
                f"One day {n} lost {an(a)} {t} in the {p}.",
                f"One evening {n} heard a sound near the {p}.",
            ]
        )
    )
    if "lost" in s[-1]:
        s.append(r.choice([f"{n} felt {b} and looked everywhere.", f"{n} asked every friend about the {t}."]))
        s.append(
            r.choice(
                [
                    f'Then {n2} the {c2} came and said, "I can help you."',
                    f"At last {n2} the {c2} saw the {t} behind a stone.",
                ]
            )
        )
        s.append(r.choice([f"Together they found the {t}.", f"Soon the {t} was back with {n}."]))
    elif "found" in s[-1]:
        s.append(r.choice([f'"Whose {t} is this?" asked {n}.', f"{n} picked up the {t} and looked at it."]))
        s.append(
            r.choice(
                [f"It belonged to {n2} the {c2}, who was {b} without it.", f"{n2} the {c2} was looking for the {t}."]
            )
        )
        s.append(r.choice([f"{n} gave the {t} back at once.", f"So {n} brought the {t} to {n2}."]))
    else:
        s.append(r.choice([f"It was {n2} the {c2}, who was {b}.", f"There sat {n2} the {c2}, all alone."]))
        s.append(r.choice([f"{n} sat down and shared {an(a)} {t}.", f'"Come and play with me," said {n}.']))
        s.append(r.choice(["They talked until the sun went down.", f"They played in the {p} all day."]))
    s.append(
        r.choice(
            [
                f"{n} was {f}, and they became good friends.",
                f"From that day on, {n} and {n2} were friends.",
                f"That night {n} went home and was very {f}.",
            ]
        )
    )
    return " ".join(s)


def turn(r):
    k = r.random()
    if k < 0.34:
        q, a = r.choice(list(FAQ.values()))
        return r.choice(q), " ".join(r.choice(x) for x in a)
    if k < 0.62:
        c, n, p = r.choice(ANIMALS), r.choice(NAMES), r.choice(PLACES)
        art = "an" if c[0] in "aeiou" else "a"
        return r.choice(
            [
                (f"Tell me a story about {art} {c}.", story(r, animal=c)),
                (f"Write a short story about {art} {c} named {n}.", story(r, animal=c, name=n)),
                (f"Tell me a story about {n}.", story(r, name=n)),
                (f"Tell me a story about {art} {c} in a {p}.", story(r, animal=c, place=p)),
                ("Tell me a story.", story(r)),
                ("Please write a short story.", story(r)),
            ]
        )
    if k < 0.74:
        a, b = r.randrange(0, 11), r.randrange(0, 11)
        if r.random() < 0.6:
            return r.choice(
                [
                    (f"What is {a} plus {b}?", f"{a} plus {b} is {a+b}."),
                    (f"What is {a} + {b}?", f"{a} + {b} = {a+b}."),
                    (f"Add {a} and {b}.", f"{a} plus {b} is {a+b}."),
                ]
            )
        a, b = max(a, b), min(a, b)
        return r.choice(
            [(f"What is {a} minus {b}?", f"{a} minus {b} is {a-b}."), (f"What is {a} - {b}?", f"{a} - {b} = {a-b}.")]
        )
    if k < 0.82:
        l, v = r.choice(list(LISTS.items()))
        n = r.choice([2, 3, 4])
        s = r.sample(v, n)
        return (
            r.choice([f"Name {NUM[n]} {l}.", f"List {NUM[n]} {l}.", f"Give me {NUM[n]} {l}."]),
            f"Here are {NUM[n]} {l}: " + ", ".join(s[:-1]) + " and " + s[-1] + ".",
        )
    if k < 0.89:
        x, y = r.choice(OPP)
        if r.random() < 0.5:
            x, y = y, x
        return (
            r.choice([f"What is the opposite of {x}?", f"Give me the opposite of {x}."]),
            f"The opposite of {x} is {y}.",
        )
    if k < 0.95:
        c = r.choice(list(CAP))
        return (
            r.choice([f"What is the capital of {c}?", f"Which city is the capital of {c}?"]),
            f"The capital of {c} is {CAP[c]}.",
        )
    return r.choice(HELLO), r.choice(
        [
            "Hello! How can I help you?",
            "Hello! Ask me about enclaves, or ask for a story.",
            "Good to see you. What would you like to know?",
        ]
    )


def dialogue(r):
    return "".join(DIALOGUE_TURN.format(q=q, a=a) for q, a in (turn(r) for _ in range(r.choice([1, 1, 1, 2, 2, 3]))))


def chats(n, seed=1):
    r = random.Random(seed)
    return [dialogue(r) for _ in range(n)]


if __name__ == "__main__":
    print("".join(chats(6, 3)))
