//! The verifier at its boundary: documents, chains, policies and verdicts, each rule with what it accepts and refuses.

#[cfg(test)]
mod aws;
#[cfg(test)]
mod aws_bits;
#[cfg(test)]
mod aws_documents;
#[cfg(test)]
mod chain_cache;
#[cfg(test)]
mod chain_rules;
#[cfg(test)]
mod common;
#[cfg(test)]
mod document_rules;
#[cfg(test)]
mod policy_file;
#[cfg(test)]
mod verdict_axes;
