"""Training with zeros: handwritten digits, 4x1 blocks that come while training, a teacher, an artifact.

python examples/06_train_sparse.py
"""

import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import sparsecc
from sparsecc.training import SparseTraining, distillation

pixels, labels = load_digits(return_X_y=True)
images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
classes = torch.tensor(labels)
order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))
train, test = order[:1400], order[1400:]


def accuracy(module: nn.Module) -> float:
    with torch.no_grad():
        return float((module(images[test]).argmax(1) == classes[test]).float().mean())


torch.manual_seed(0)
dense = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2), nn.ReLU(),
    nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10),
)  # fmt: skip
optimizer = torch.optim.AdamW(dense.parameters(), 3e-3)
for _ in range(100):
    some = train[torch.randint(len(train), (64,))]
    loss = cross_entropy(dense(images[some]), classes[some])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

batch = torch.export.Dim("batch", min=1, max=4096)
program = torch.export.export(dense.eval(), (images[:2],), dynamic_shapes=({0: batch},))
model = sparsecc.capture(program)

# What differs from the loop above: SparseTraining makes the module, and its step clears the gradients.
training = SparseTraining(model, "4x1", 0.8, method="gradual", steps=180, every=10)
optimizer = torch.optim.AdamW(training.module.parameters(), 3e-3)
for step in range(180):
    some = train[torch.randint(len(train), (64,))]
    logits = training.module(images[some])
    with torch.no_grad():
        wanted = dense(images[some])
    loss = cross_entropy(logits, classes[some]) + distillation(logits, wanted)
    loss.backward()
    optimizer.step()
    training.step()
    if step % 60 == 59:
        print(f"step {step + 1}: {training.sparsity:.0%} zeros, {accuracy(training.module):.1%} right")
print(f"dense {accuracy(dense):.1%}, with zeros {accuracy(training.module):.1%}")

sparse = training.finish()
with tempfile.TemporaryDirectory() as folder:
    name = sparse.graph.inputs[0].name or ""
    artifact = sparsecc.compile(sparse, out=Path(folder) / "digits.scc", shapes={name: (1, 1, 8, 8)})
    with artifact.load() as session:
        (found,) = session.run({name: images[test][:1].numpy()}).values()
    print(f"the artifact reads a {found.argmax()}, it is a {int(classes[test][0])}")
