54a\
    /// The host has ended its half: nothing more comes from it.\
    pub host_ended: bool,\
    /// The halves that the guest has ended, as flags of VSOCK_OP_SHUTDOWN.\
    guest_ended: u32,\
    /// The host has been told that nothing more comes from the guest.\
    host_told: bool,
85a\
            host_ended: false,\
            guest_ended: 0,\
            host_told: false,
119a\
            host_ended: false,\
            guest_ended: 0,\
            host_told: false,
166c\
                let read = match self.stream.read_volatile(&mut buf) {\
                    Err(vm_memory::VolatileMemoryError::IOError(e))\
                        if e.kind() != ErrorKind::WouldBlock =>\
                    {\
                        // Both halves are gone.\
                        self.host_ended = true;\
                        Ok(0)\
                    }\
                    read => read,\
                };\
                if let Ok(read_cnt) = read {
168,172c\
                        // The host has ended one half, and can go on reading. Only a host that is gone altogether is met here\
                        // again: no other makes a stream that is not watched for reading readable.\
                        pkt.set_op(VSOCK_OP_SHUTDOWN)\
                            .set_flag(VSOCK_FLAGS_SHUTDOWN_SEND);\
                        if self.host_ended {\
                            pkt.set_flag(VSOCK_FLAGS_SHUTDOWN_RCV);\
                        } else {\
                            self.host_ended = true;\
                            self.watch();\
                        }
178,195c\
                        self.watch();
264,280c\
                self.watch();
287,293c\
                self.guest_ended |= pkt.flags();\
                self.after_flush();
349,358c\
            let _ = VhostUserVsockThread::epoll_modify(\
                self.epoll_fd,\
                self.stream.as_raw_fd(),\
                self.interest(),\
            );
364a\
\
    /// Passes on which halves the guest has ended, once all that it sent before is with the host.\
    pub fn after_flush(&mut self) {\
        if !self.tx_buf.is_empty() {\
            return;\
        }\
        if self.guest_ended & VSOCK_FLAGS_SHUTDOWN_SEND != 0 && !self.host_told {\
            self.host_told = true;\
            self.stream.end_writing();\
        }\
        if self.guest_ended & VSOCK_FLAGS_SHUTDOWN_SEND != 0\
            && self.guest_ended & VSOCK_FLAGS_SHUTDOWN_RCV != 0\
        {\
            self.rx_queue.enqueue(RxOps::Reset);\
        }\
    }\
\
    /// What there is to wait for on the host's stream.\
    fn interest(&self) -> epoll::Events {\
        if self.host_ended {\
            epoll::Events::EPOLLOUT\
        } else {\
            epoll::Events::EPOLLIN | epoll::Events::EPOLLOUT\
        }\
    }\
\
    fn watch(&self) {\
        let (fd, interest) = (self.stream.as_raw_fd(), self.interest());\
        if VhostUserVsockThread::epoll_modify(self.epoll_fd, fd, interest).is_err() {\
            if let Err(e) = VhostUserVsockThread::epoll_register(self.epoll_fd, fd, interest) {\
                error!("epoll_register failed: {e:?}");\
            }\
        }\
    }
