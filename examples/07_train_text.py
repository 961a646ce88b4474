"""Training with zeros on text: the next character of Python's own documentation, 2:4 by SR-STE.

python examples/07_train_text.py
"""

import pydoc_data.topics

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sparsecc
from sparsecc.training import SparseTraining

CONTEXT, STEPS = 16, 180
text = "".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))[:400_000]
ids = torch.tensor([min(ord(letter), 127) for letter in text])
train, test = ids[:360_000], ids[360_000:]


class Letters(nn.Module):
    """Embedding, one attention over what came before, a feed-forward layer."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(128, width), nn.Parameter(torch.zeros(CONTEXT, width))
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 128)

    def forward(self, letters: torch.Tensor) -> torch.Tensor:
        x = self.embed(letters) + self.place
        last = x[:, -1:]
        x = (last + self.attention(last, x, x, need_weights=False)[0])[:, 0]
        return self.head(self.norm(x + self.outer(torch.relu(self.inner(x)))))


def sample(source: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    starts = torch.randint(len(source) - CONTEXT - 1, (count,))
    return torch.stack([source[s : s + CONTEXT] for s in starts]), source[starts + CONTEXT]


torch.manual_seed(0)
held_out = sample(test, 1024)
batch = torch.export.Dim("batch", min=1, max=4096)
program = torch.export.export(Letters().eval(), (held_out[0][:2],), dynamic_shapes=({0: batch},))
training = SparseTraining(sparsecc.capture(program), "2:4", method="sr-ste", steps=STEPS)
optimizer = torch.optim.AdamW(training.module.parameters(), 3e-3)
for step in range(STEPS):
    letters, following = sample(train, 128)
    loss = cross_entropy(training.module(letters), following)
    loss.backward()
    optimizer.step()
    training.step()
    if step % 60 == 59:
        with torch.no_grad():
            nats = float(cross_entropy(training.module(held_out[0]), held_out[1]))
        print(f"step {step + 1}: {training.sparsity:.0%} zeros, {nats:.2f} nats a letter (blind guess: 4.85)")
sparse = training.finish()
weights = sum(value.const_value.size for value in sparse.graph.initializers.values() if value.const_value)
print(
    f"a model with {weights} weights, for `sparsecc.compile`: inputs {[v.name for v in sparse.graph.inputs]}"
)
