"""The JSON of rustdoc, which describes the public API of a package."""

import json
import os
import subprocess


def nightly():
    has = subprocess.run(["cargo", "+nightly", "--version"], capture_output=True).returncode == 0
    return (["cargo", "+nightly"], {}) if has else (["cargo"], {"RUSTC_BOOTSTRAP": "1"})


def documentation(package, target):
    """The public API of a package with all features."""
    cargo, environment = nightly()
    command = cargo + ["rustdoc", "--quiet", "--locked", "--lib", "--all-features", "--package", package]
    command += ["--target-dir", target, "--", "-Z", "unstable-options", "--output-format", "json", "--cap-lints", "allow"]
    subprocess.run(command, check=True, env={**os.environ, **environment})
    with open(f"{target}/doc/{package.replace('-', '_')}.json") as file:
        return json.load(file)
