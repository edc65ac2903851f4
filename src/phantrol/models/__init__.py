"""Floor 2: the Hugging Face-native vision-language model: configuration, modeling, processing, building and loading."""
