//! Release control: which models may run, for whom, until when.
