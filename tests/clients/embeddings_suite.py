"""The official `openai` package, unmodified, against a Cleanroom API whose model gives embeddings.

`suite` says how the API is reached. Prints one line for each case and exits with 1 if one fails.
"""

import openai
import suite
from cases import cases

suite.run(openai, cases("embeddings"))
