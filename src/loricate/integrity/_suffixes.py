"""What somebody will take a file for by its name, in one table."""

__all__ = ["CODE", "PICKLES", "WEIGHTS"]

PICKLES = (
    *(".bin", ".ckpt", ".pt", ".pth", ".th", ".pkl", ".pickle", ".joblib", ".dill"),
    *(".npy", ".npz"),
)
"""Files that somebody will load as pickles, or by a loader that may."""

WEIGHTS = (
    *(".safetensors", *PICKLES, ".gguf", ".ggml", ".onnx", ".h5", ".hdf5", ".keras"),
    *(".msgpack", ".pb", ".tflite", ".nemo", ".mlmodel", ".engine"),
)
"""Files that hold weights."""

CODE = {
    **dict.fromkeys((".py", ".pyw"), "Python code"),
    **dict.fromkeys((".pyc", ".pyo"), "compiled Python code"),
    **dict.fromkeys((".sh", ".bash", ".bat", ".cmd", ".ps1"), "a script of a shell"),
    **dict.fromkeys((".so", ".dll", ".dylib", ".pyd", ".exe"), "a program or library"),
    **dict.fromkeys((".js", ".html", ".htm"), "a page or script that a browser runs"),
}
"""Files that hold code, with what kind."""
