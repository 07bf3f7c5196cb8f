//! X.509: from a document's certificates to a pinned root.
