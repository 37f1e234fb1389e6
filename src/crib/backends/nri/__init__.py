"""Node plugins by the Node Resource Interface (NRI): the port `NodePlugins`, spoken over ttrpc.

https://github.com/containerd/nri, pkg/adaptation and pkg/api/api.proto.

* messages and nouns: `translate` shows pods and containers (`translate_parts` what is in a spec), and
  `translate_validation` what validators are to judge. `translate_answers` reads what plugins answer, with
  `translate_adjustment` for what they make of a container and `translate_limits` for limits;
  `translate_checks` refuses what cannot be.
"""
