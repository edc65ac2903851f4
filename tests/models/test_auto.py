"""`import phantrol` is cheap, and transformers' Auto classes know our models all the same."""

import subprocess
import sys


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_brings_neither_torch_nor_transformers():
    assert run("import sys, phantrol; print([m for m in ('torch', 'transformers') if m in sys.modules])") == "[]\n"


def test_auto_classes_know_our_models_whatever_is_imported_first(model_and_processor, tmp_path):
    model, processor = model_and_processor
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    use = (
        f"model = AutoModelForImageTextToText.from_pretrained({str(tmp_path)!r})\n"
        "print(type(model).__name__, type(AutoProcessor.from_pretrained(model.name_or_path)).__name__)"
    )
    auto = "from transformers import AutoModelForImageTextToText, AutoProcessor\n"
    expected = "PhantrolForConditionalGeneration PhantrolProcessor\n"
    assert run("import phantrol\n" + auto + use) == expected
    assert run(auto + "import phantrol\n" + use) == expected
    processor_first = f"print(type(AutoProcessor.from_pretrained({str(tmp_path)!r})).__name__)"
    assert run("import phantrol\nfrom transformers import AutoProcessor\n" + processor_first) == "PhantrolProcessor\n"
