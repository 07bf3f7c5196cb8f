185a\
    /// Tells the host that nothing more comes; it can still send.\
    fn end_writing(&self);
191a\
\
    fn end_writing(&self) {\
        // A host that is gone needs no word.\
        let _ = match self {\
            StreamType::Unix(stream) => stream.shutdown(std::net::Shutdown::Write),\
            #[cfg(feature = "backend_vsock")]\
            StreamType::Vsock(stream) => stream.shutdown(std::net::Shutdown::Write),\
        };\
    }
