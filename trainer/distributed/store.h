#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "trainer/distributed/environment.h"

namespace rwkv::trainer {

using StorePtr = c10::intrusive_ptr<c10d::Store>;

/// An address, resolved.
struct Endpoint {
  std::string address;  // numeric
  bool ipv6 = false;
  bool loopback = false;
  bool is_private = false;  // loopback, RFC 1918, link-local, RFC 6598, RFC 4193
};

/// Throws UserError within a minute when there is no such name.
Endpoint resolve(const std::string& host);

/// The keys by which ranks find each other: LibTorch's TCPStore, which knows no passwords. Rank 0
/// listens (unless the launcher does), and on the address of MASTER_ADDR alone: left to itself,
/// TCPStore would listen on all interfaces. Two connections each, since a blocked one blocks all
/// its users. Throws UserError for an address that is not this machine's, a port in use, and a
/// public address unless `allow_public`; PeerLostError when nobody listens within `timeout`.
struct StoreConnections {
  StorePtr main;
  StorePtr heartbeat;
  std::string own_address;  // of this machine, as the store's machine reaches it
};
StoreConnections connect_store(const RankEnvironment& environment,
                               std::chrono::milliseconds timeout, bool allow_public);

/// A store for the ranks of this machine, on a free port of 127.0.0.1.
struct HostedStore {
  StorePtr store;
  uint16_t port = 0;
};
HostedStore host_local_store();

/// The address of this machine that reaches `endpoint`.
std::string own_address_towards(const Endpoint& endpoint);

}  // namespace rwkv::trainer
