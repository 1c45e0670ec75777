{{/* Labels by which a group's pods are found: (dict "root" $ "group" $group) */}}
{{- define "patchflow.groupSelector" -}}
{{ include "patchflow.selector" .root }}
app.kubernetes.io/component: worker
patchflow/group: {{ .group.id }}
{{- end }}

{{/* Pod template of a worker: (dict "root" $ "group" $group) */}}
{{- define "patchflow.workerPod" -}}
{{- $values := .root.Values }}
{{- $group := .group }}
{{- $name := include "patchflow.name" .root }}
metadata:
  labels:
    {{- include "patchflow.groupSelector" . | nindent 4 }}
    app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
  {{- with $group.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "patchflow.podSecurity" .root | nindent 2 }}
  terminationGracePeriodSeconds: {{ $values.worker.terminationGraceSeconds }}
  {{- with $values.worker.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with $values.image.pullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: worker
      image: {{ include "patchflow.image" (dict "root" .root "image" $values.image.worker) }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      args:
        - --listen=0.0.0.0:{{ $values.worker.port }}
        {{- if include "patchflow.workersTls" .root }}
        - --tls-cert=/etc/patchflow-workers/tls.crt
        - --tls-key=/etc/patchflow-workers/tls.key
        - --tls-ca=/etc/patchflow-workers/ca.crt
        - --health=0.0.0.0:{{ $values.worker.healthPort }}
        {{- else }}
        - --plaintext=true
        {{- end }}
        - --model=/models/{{ $group.model }}
        - --device={{ $group.device }}
        - --dtype={{ $group.dtype }}
        - --ranks={{ $group.ranks }}
        {{- if gt (int $group.nodes) 1 }}
        - --group-ranks={{ mul $group.ranks $group.nodes }}
        {{- end }}
        {{- with $group.layout }}
        - --layout={{ include "patchflow.layout" . }}
        {{- end }}
        {{- with $group.threads }}
        - --threads={{ . }}
        {{- end }}
        {{- with $group.defaultGuidance }}
        - --default-guidance={{ . }}
        {{- end }}
        {{- with $group.warmup }}
        - --warm-up={{ join "," . }}
        {{- end }}
        {{- if gt (int $group.batchSize) 1 }}
        - --batch-size={{ int $group.batchSize }}
        {{- end }}
        - --load-timeout={{ $values.worker.loadTimeoutSeconds }}
        - --first-run-timeout={{ $group.firstRunTimeoutSeconds }}
      env:
        - {name: CUDA_CACHE_PATH, value: /tmp/cuda}
        {{- with $group.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - {name: worker, containerPort: {{ $values.worker.port }}}
        {{- if include "patchflow.workersTls" .root }}
        - {name: health, containerPort: {{ $values.worker.healthPort }}}
        {{- end }}
      {{- include "patchflow.workerProbes" .root | nindent 6 }}
      {{- include "patchflow.containerSecurity" .root | nindent 6 }}
      resources:
        {{- $resources := deepCopy $group.resources }}
        {{- if eq $group.device "cuda" }}
        {{- $gpus := dict "limits" (dict "nvidia.com/gpu" (toString $group.ranks)) }}
        {{- $resources = merge $gpus $resources }}
        {{- end }}
        {{- toYaml $resources | nindent 8 }}
      volumeMounts:
        - {name: models, mountPath: /models, readOnly: true}
        - {name: shm, mountPath: /dev/shm}
        - {name: tmp, mountPath: /tmp}
        {{- if include "patchflow.workersTls" .root }}
        - {name: workers, mountPath: /etc/patchflow-workers, readOnly: true}
        {{- end }}
  volumes:
    - name: models
      persistentVolumeClaim: {claimName: {{ $values.models.claim }}, readOnly: true}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ $values.worker.sharedMemory }}}
    - name: tmp
      emptyDir: {sizeLimit: 4Gi}
    {{- with include "patchflow.workersTls" .root }}
    - name: workers
      secret: {secretName: {{ . }}, defaultMode: 0440}
    {{- end }}
  {{- with $group.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $group.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $group.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* {pipefusion: 2, cuda_graphs: false} as the worker takes it: "cuda_graphs=0,pipefusion=2". */}}
{{- define "patchflow.layout" -}}
{{- $words := list }}
{{- range $key, $value := . }}
{{- $number := ternary (ternary 1 0 (eq (toString $value) "true")) $value (kindIs "bool" $value) }}
{{- $words = append $words (printf "%s=%d" $key (int $number)) }}
{{- end }}
{{- join "," $words }}
{{- end }}

{{/* The Secret for mTLS between front end and workers; empty: plaintext, which has to be said. */}}
{{- define "patchflow.workersTls" -}}
{{- with .Values.worker.security }}
{{- if and .tls .plaintext }}{{ fail "worker.security: plaintext has no meaning with tls" }}{{ end }}
{{- if not (or .tls .plaintext) }}
{{- fail "worker.security: name a Secret with tls.crt, tls.key and ca.crt for the links between front end and workers (tls; deploy/README.md shows how to make it), or say plaintext: true" }}
{{- end }}
{{- .tls }}
{{- end }}
{{- end }}

{{/*
A worker answers grpc.health.v1 where it listens, and with TLS on a port of its own, as probes have no certificate:
"liveness" from the start until it has failed, also while it loads, "readiness" while it takes jobs or waits for its place in
a group. The front end watches it every half second besides, ready or not.
*/}}
{{- define "patchflow.workerProbes" -}}
{{- $port := ternary .Values.worker.healthPort .Values.worker.port (ne (include "patchflow.workersTls" .) "") }}
startupProbe:
  grpc: {port: {{ $port }}, service: liveness}
  periodSeconds: 2
  failureThreshold: 60
readinessProbe:
  grpc: {port: {{ $port }}, service: readiness}
  periodSeconds: 5
livenessProbe:
  grpc: {port: {{ $port }}, service: liveness}
  periodSeconds: 10
  failureThreshold: 3
{{- end }}
