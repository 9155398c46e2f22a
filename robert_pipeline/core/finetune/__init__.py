"""Fine-tune an encoder on chunks that carry their document's label: the first stage of Pappagari et al. 2019."""
